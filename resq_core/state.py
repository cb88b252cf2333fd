"""Everything that a stream owns between two frames. Models own none of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["LayerState", "StreamState"]


@dataclass(slots=True)
class LayerState:
    """What one layer remembers: the reference input and the output that belongs to it.

    Attributes:
        x: reference input. `keyframe`: x^k, float32. `previous`: x^{t−1}, float32. `tracking`:
            what has been transmitted so far, float64, so that sums of scaled codes are exact.
        z: layer output for `x`, bias included; float64 where it accumulates.
        keyframe_norm: mean over pixels of ‖x^k‖₂, for the relative policy.
    """

    x: Tensor
    z: Tensor
    keyframe_norm: float


@dataclass(slots=True)
class StreamState:
    """State of one stream; dropping it frees its memory at once.

    Attributes:
        layers: by layer name.
        input_shapes: shapes of the inputs that the state belongs to.
        since_anchor: frames processed since the last anchor, that one included; 0 before any.
        output: the last output, a tensor or a nest of tensors.
    """

    layers: dict[str, LayerState] = field(default_factory=dict)
    input_shapes: tuple[tuple[int, ...], ...] = ()
    since_anchor: int = 0
    output: Any = None

    def clear(self) -> None:
        """Forget everything; the next frame becomes an anchor."""
        self.layers.clear()
        self.input_shapes = ()
        self.since_anchor = 0
        self.output = None

    @property
    def nbytes(self) -> int:
        """Bytes of the layers' tensors; a tensor that several layers share counts once."""
        return _distinct_bytes(t for layer in self.layers.values() for t in (layer.x, layer.z))


def _distinct_bytes(tensors: Iterable[Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
