"""What streams may lose so that more of them fit, in the order the operator chose. No clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

__all__ = ["Effects", "Measure", "levels"]


class Measure(StrEnum):
    """What is taken from streams."""

    PERIOD = "period"
    THRESHOLD = "threshold"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class Effects:
    """One level of degradation; level 0 takes nothing.

    Attributes:
        level: its number.
        period: factor on T.
        threshold: factor on the policy's threshold.
        one_of: of so many frames of a live stream one is run.
    """

    level: int = 0
    period: int = 1
    threshold: float = 1.0
    one_of: int = 1


def levels(measures: Sequence[Measure]) -> tuple[Effects, ...]:
    """The levels that measures give, each on top of those before: T twice as long, twice; the
    threshold half as high again, three times; every second frame.
    """
    found = [Effects()]
    for measure in measures:
        start = found[-1]
        if measure is Measure.PERIOD:
            steps = [replace(start, period=factor * start.period) for factor in (2, 4)]
        elif measure is Measure.THRESHOLD:
            steps = [replace(start, threshold=1.5**n * start.threshold) for n in (1, 2, 3)]
        else:
            steps = [replace(start, one_of=2 * start.one_of)]
        found += [replace(step, level=len(found) + i) for i, step in enumerate(steps)]
    return tuple(found)
