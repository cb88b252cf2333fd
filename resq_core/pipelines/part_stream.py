"""A part of a network with a stream of its own, and the objects that its state belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from resq_core.stream import StepResult, Stream

__all__ = ["OBJECTS_CHANGED", "PartStream"]

OBJECTS_CHANGED = "objects_changed"
"""Why a part runs an anchor after an object came or went."""


class PartStream:
    """The keyframe clock of a part counts the frames on which that part ran.

    Args:
        stream: of the part alone.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._ids: tuple[int, ...] | None = None

    def step(
        self, inputs: Sequence[Tensor], ids: tuple[int, ...], bit_map: bool, anchor: str | None
    ) -> StepResult:
        """Run the part, with its layers' reports.

        Args:
            inputs: of the part; what has the objects as its batch is in the order of `ids`.
            ids: objects; where they are others than last time, the frame is an anchor.
            bit_map, anchor: as in `Stream.step`.
        """
        if self._ids not in (None, ids):
            anchor = OBJECTS_CHANGED
        result = self.stream.step(inputs, bit_map=bit_map, layers=True, anchor=anchor)
        self._ids = ids
        return result
