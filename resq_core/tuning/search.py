"""The search: for every period, along the threshold, to the edge of what the goal allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from resq_core.errors import InputError, OptionError
from resq_core.precision import Precision
from resq_core.stream import MAX_PERIOD
from resq_core.tuning.bench import Bench, Point

__all__ = [
    "DEFAULT_PERIODS",
    "MOST_PER_PERIOD",
    "Curve",
    "Goal",
    "Limit",
    "periods_for",
    "search",
]

DEFAULT_PERIODS = (4, 8, 16, 32)

GRID = tuple(0.01 * 2**i for i in range(8))  # relative thresholds, 0.01 to 1.28
_REFINEMENTS = 3  # halvings of the last step, a factor of 2, in the logarithm: to within 9 %
_MISSES = 2  # in a row end the walk along the grid: curves are noisy, one may be a dent
MOST_PER_PERIOD = len(GRID) + _REFINEMENTS
"""Settings tried of one period at most."""
_ROUNDS = 3  # settings that are timed side by side with W8A8 frames, at most


class Limit(StrEnum):
    """What a goal bounds."""

    DROP = "max-drop"
    BOPS = "max-bops"
    MS = "max-ms"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound, and by it what is best within: least cost for a bound on the drop, else least drop.

    Attributes:
        limit: what is bounded.
        value: points; or a share of the W8A8 cost, above 0 and up to 1; or milliseconds per frame
            on this machine, above 0.

    Raises:
        OptionError: a value out of range.
    """

    limit: Limit
    value: float

    def __post_init__(self) -> None:
        top = {Limit.DROP: 100.0, Limit.BOPS: 1.0, Limit.MS: math.inf}[self.limit]
        lowest_taken = self.limit is Limit.DROP
        inside = 0 <= self.value <= top if lowest_taken else 0 < self.value <= top
        if not (math.isfinite(self.value) and inside):
            what = {
                Limit.DROP: "points from 0 to 100",
                Limit.BOPS: "a share of the W8A8 cost above 0, at most 1",
                Limit.MS: "milliseconds per frame above 0",
            }[self.limit]
            raise OptionError(f"{self.limit} is {self.value}; expected {what}")

    def of(self, point: Point) -> float:
        """What is bounded."""
        return {Limit.DROP: point.drop, Limit.BOPS: point.bops, Limit.MS: point.ms}[self.limit]

    def met(self, point: Point) -> bool:
        """The point keeps the bound."""
        return self.of(point) <= self.value

    def rank(self, point: Point) -> float:
        """The lower, the better, among points that keep the bound."""
        return point.cost if self.limit is Limit.DROP else point.drop


@dataclass(frozen=True, slots=True)
class Curve:
    """What was found.

    Attributes:
        goal: what was looked for.
        points: all settings tried, by period and threshold.
        hold: what repeating the keyframe's output gives, by period: what a setting has to beat.
        best: the one of `points` that is best within the bound, or None where none keeps it. Its
            `ms` is measured in turn with W8A8 frames, as `w8a8_ms` is.
        w8a8_ms: milliseconds per W8A8 frame; None where nothing was timed in turn.
    """

    goal: Goal
    points: tuple[Point, ...]
    hold: tuple[Point, ...]
    best: Point | None
    w8a8_ms: float | None

    @property
    def closest(self) -> Point:
        """The point that comes nearest to the bound, or lies furthest inside it."""
        return min(self.points, key=self.goal.of)


def periods_for(frames: int, periods: Sequence[int] | None) -> tuple[int, ...]:
    """The periods that a clip can tell something about: it holds each of them twice.

    Args:
        frames: length of the clip.
        periods: T to try; None takes those of `DEFAULT_PERIODS` that fit.

    Raises:
        OptionError: no period, or one out of range.
        InputError: the clip is too short for one that was asked for, or for all.
    """
    asked = DEFAULT_PERIODS if periods is None else tuple(sorted(set(periods)))
    if not asked or not all(1 <= period <= MAX_PERIOD for period in asked):
        raise OptionError(
            f"the periods are {list(asked)}; expected whole numbers from 1 to {MAX_PERIOD}"
        )
    fitting = tuple(period for period in asked if 2 * period <= frames)
    if not fitting or (periods is not None and fitting != asked):
        longest = min(asked) if not fitting else max(asked)
        raise InputError(
            f"the clip has {frames} frames; expected {2 * longest} or more, two periods of "
            f"T = {longest}"
        )
    return fitting


def search(
    bench: Bench,
    precisions: Sequence[Precision],
    goal: Goal,
    periods: Sequence[int],
    report: Callable[[Point], None] = lambda point: None,
) -> Curve:
    """Find the best setting within a goal.

    Along a period's thresholds the cost falls and the drop grows at first; far out it may fall
    again, to that of repeating the keyframe. So a walk over a coarse grid begins where the goal is
    easiest to keep, ends after two misses, and the last step is then halved; the best is taken
    over all that was measured, dents included.

    Args:
        bench: the clip.
        precisions: of the stream; for one without a choice of bits only the periods are tried.
        goal: the bound.
        periods: T to try.
        report: called with every point as it is measured.

    Raises:
        OptionError: no precision, or one without residual frames.
        CalibrationError: the model is not calibrated for one.
    """
    if not precisions or any(p.is_frame or p.is_hold for p in precisions):
        raise OptionError(
            f"the precisions are {[str(p) for p in precisions]}; expected ones whose residual "
            "frames have bits, for example W8A8->W8A{0,4,8}"
        )
    tried: list[Point] = []
    for precision in precisions:
        grid: Sequence[float] = GRID if len(precision.pool) > 1 else (0.0,)
        for period in periods:

            def measure(
                threshold: float, precision: Precision = precision, period: int = period
            ) -> Point:
                point = bench.measure(precision, period, threshold)
                tried.append(point)
                report(point)
                return point

            _walk(measure, grid, goal)
    tried.sort(key=lambda p: (str(p.precision), p.period, p.threshold))
    hold = tuple(bench.measure(_held(precisions[0]), period, 0.0) for period in periods)
    best, w8a8_ms = _confirm(bench, goal, tried)
    return Curve(goal, tuple(tried), hold, best, w8a8_ms)


def _held(precision: Precision) -> Precision:
    """The same keyframes, whose output every residual frame repeats."""
    p = precision
    return Precision(p.weight_bits, p.activation_bits, p.residual_weight_bits, (0,))


def _walk(measure: Callable[[float], Point], grid: Sequence[float], goal: Goal) -> None:
    """Measure one period's curve around the edge of the goal."""
    inside: float | None = None
    edge: float | None = None
    misses = 0
    for threshold in grid if goal.limit is Limit.DROP else reversed(grid):
        if goal.met(measure(threshold)):
            inside, edge, misses = threshold, None, 0
            continue
        edge = threshold if edge is None else edge
        misses += 1
        if misses == _MISSES:
            break
    if inside is None or edge is None:
        return
    for _ in range(_REFINEMENTS):
        middle = math.sqrt(inside * edge)
        if goal.met(measure(middle)):
            inside = middle
        else:
            edge = middle


def _confirm(bench: Bench, goal: Goal, points: list[Point]) -> tuple[Point | None, float | None]:
    """The best point, and the time of a W8A8 frame beside it.

    A point's time from the search was measured alone. The best is timed again, in turn with W8A8
    frames, and takes its place among the points with that time. Where it breaks a bound on the
    time now, the others' times are scaled by what it was off, and the next best has its turn.
    """
    scale, w8a8_ms = 1.0, None
    for _ in range(_ROUNDS):
        able = [p for p in points if goal.met(replace(p, ms=scale * p.ms))]
        if not able:
            break
        found = min(able, key=goal.rank)
        w8a8_ms, (ms,) = bench.time_in_turn([found])
        timed = replace(found, ms=ms)
        points[points.index(found)] = timed
        if goal.met(timed):
            return timed, w8a8_ms
        scale = max(scale, ms / found.ms)
    return None, w8a8_ms
