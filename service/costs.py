"""What frames take of a worker's time, as measured."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Busy", "Costs", "Meter"]

_SAMPLES = 32  # frames of a kind that the figures are taken from
_LOAD_SECONDS = 5.0  # over which the measured load is averaged
_LATE_SAMPLES, _FEWEST = 8, 3  # the last of a kind that tell what the next will take


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one worker's time: an anchor, and a residual frame."""

    anchor: float
    residual: float

    def per_frame(self, period: int) -> float:
        """The average of a period."""
        return (self.anchor + (period - 1) * self.residual) / period


class Busy:
    """How many workers were busy lately, an average that forgets. Times are passed in."""

    def __init__(self) -> None:
        self._seconds, self._at = 0.0, 0.0

    def note(self, now: float, seconds: float) -> None:
        """Somebody worked for so long, until now."""
        self._seconds, self._at = self.measured(now) * _LOAD_SECONDS + seconds, now

    def measured(self, now: float) -> float:
        """Workers that were busy."""
        return self._seconds * math.exp(-(now - self._at) / _LOAD_SECONDS) / _LOAD_SECONDS


class Meter:
    """The last frames of each kind: their means without the extremes. The first frame of a size
    plans its work, and a pause of the machine says nothing of a frame.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._anchors: deque[float] = deque(maxlen=_SAMPLES)
        self._residuals: deque[float] = deque(maxlen=_SAMPLES)

    def note(self, is_anchor: bool, seconds: float) -> None:
        """Take in what a frame took."""
        self.frames += 1
        (self._anchors if is_anchor else self._residuals).append(seconds)

    def next(self, is_anchor: bool) -> float:
        """Seconds that the next frame of a kind will take at least, judged from the last ones; 0
        where too few came. One slow frame says nothing, and one quick frame is enough to know that
        slow ones are over.
        """
        samples = self._anchors if is_anchor else self._residuals
        if len(samples) < _FEWEST:
            return 0.0
        return min(median(list(samples)[-_LATE_SAMPLES:]), samples[-1])

    def costs(self, otherwise: Costs | None = None) -> Costs | None:
        """Figures so far; a kind that never came costs what it does otherwise, or like the other
        kind. None before any frame.
        """
        anchor, residual = _mean(self._anchors), _mean(self._residuals)
        if otherwise is not None:
            anchor = otherwise.anchor if anchor is None else anchor
            residual = otherwise.residual if residual is None else residual
        if anchor is None:
            return None if residual is None else Costs(residual, residual)
        return Costs(anchor, anchor if residual is None else residual)


def _mean(values: Sequence[float]) -> float | None:
    if not values:
        return None
    cut = math.ceil(len(values) / 10) if len(values) > 2 else 0
    kept = sorted(values)[cut : len(values) - cut]
    return sum(kept) / len(kept)
