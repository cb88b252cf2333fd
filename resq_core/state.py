"""Everything that a stream owns between two frames. Models own none of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

__all__ = ["Backoff", "LayerState", "Layers", "Memory", "StreamState"]


class Memory(Protocol):
    """What an executor keeps of one stream."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""


@dataclass(slots=True)
class LayerState:
    """What one layer remembers.

    Attributes:
        codes: int8 tensors of the input's shape, one for each plane of the layer: what has been
            transmitted so far, in steps of the plane's scale.
        x: what the next residual is taken against, float32: x^k for `keyframe`, x^{t−1} for
            `previous`; None for `tracking`, whose reference is what `codes` say.
        z: float32 [.., O, ..], output of the first plane and the bias, where it never changes
            between two keyframes; None for a layer of one plane.
        keyframe_norm: mean over pixels of ‖x^k‖₂, for the relative policy.
    """

    codes: list[Tensor]
    x: Tensor | None
    z: Tensor | None
    keyframe_norm: float


@dataclass(slots=True)
class Layers:
    """The reference executor's memory: a `LayerState` by layer name."""

    layers: dict[str, LayerState] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the layers' tensors; a tensor that several layers share counts once."""
        return _distinct_bytes(
            t for s in self.layers.values() for t in (*s.codes, s.x, s.z) if t is not None
        )


@dataclass(slots=True)
class Backoff:
    """Leaves something untried 1, 2, 4, ... times after each time in a row that it did not pay.

    Attributes:
        left: how often it is still to be left untried.
        length: of the present pause; 0 after it has paid.
    """

    left: int = 0
    length: int = 0

    def waits(self) -> bool:
        """Whether to leave it this time; counts as one time if so."""
        if self.left == 0:
            return False
        self.left -= 1
        return True

    def note(self, paid: bool, most: int) -> None:
        """How a try went; pauses grow to `most` times, 1 or more."""
        self.length = 0 if paid else min(max(1, 2 * self.length), most)
        self.left = self.length


@dataclass(slots=True)
class StreamState:
    """State of one stream; dropping it gives its memory back at once.

    Attributes:
        memory: what the executor keeps; None before the first keyframe.
        input_shapes: shapes of the inputs that the state belongs to.
        since_anchor: frames processed since the last anchor, that one included; 0 before any.
        output: the last output, a tensor or a nest of tensors, where frames repeat it.
        residuals: of residual frames, which a busy picture makes dearer than keyframes.
        refreshes: of keyframes made of what differs, which a busy picture makes dearer as well.
        busy: residual frames in a row that changed nearly everything, or were given up for that.
        most: the share of active pixels in its input beyond which a residual frame is given up, as
            learned from busy ones; None before any.
    """

    memory: Memory | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()
    since_anchor: int = 0
    output: Any = None
    residuals: Backoff = field(default_factory=Backoff)
    refreshes: Backoff = field(default_factory=Backoff)
    busy: int = 0
    most: float | None = None

    def clear(self) -> None:
        """Forget everything; the next frame becomes an anchor."""
        self.memory = None
        self.input_shapes = ()
        self.since_anchor = 0
        self.output = None
        self.residuals, self.refreshes = Backoff(), Backoff()
        self.busy, self.most = 0, None

    @property
    def nbytes(self) -> int:
        """Bytes of what the executor keeps."""
        return 0 if self.memory is None else self.memory.nbytes


def _distinct_bytes(tensors: Iterable[Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
