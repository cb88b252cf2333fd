"""Thresholds layer by layer: where a change matters, it is let through; elsewhere it is not.

One threshold for all layers treats a change alike wherever it arises. Here the threshold of one
group of layers after the other is moved, and a move stays where it saves more than moving the
common threshold would at the same price in points. What fits one clip need not fit another, so
that the result counts only where other frames confirm it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from resq_core.precision import Precision
from resq_core.tuning.bench import Point

__all__ = ["LayerTuning", "Measures", "fit_factors", "group_layers", "layer_runs", "tune_layers"]

MOST_GROUPS = 24
_STEPS = (2.0, 2.0, 1.5)  # what a group's threshold is multiplied and divided by, pass by pass
_FIRST_STEPS = (16.0, 8.0, 4.0)  # and first of all of the first layer, which sees the noise
_SLOPE = 1.25  # factor on the common threshold, to learn what a point of drop buys
_USUAL_PRICE = 1.0  # of a point, in the logarithm of active pixels, where that says nothing
_REACH = 9.0  # how far the common threshold is moved to give the same drop, both ways
_HALVINGS = 6
_GAIN = 1e-3  # least improvement of the objective, a share of the active pixels

Report = Callable[[], None]
"""Called once per run of a clip."""


class Measures(Protocol):
    """A clip that settings can be measured on, such as `Bench`."""

    def measure(
        self,
        precision: Precision,
        period: int,
        threshold: float,
        factors: Mapping[str, float] | None = None,
    ) -> Point:
        """Run it."""


def layer_runs(groups: int) -> int:
    """Runs that `tune_layers` makes at most, of either clip."""
    return 2 + len(_FIRST_STEPS) + 2 * len(_STEPS) * groups + _HALVINGS + 2


@dataclass(frozen=True, slots=True)
class LayerTuning:
    """Factors, and both ways on frames that they were not fitted on.

    Attributes:
        factors: on the threshold by layer; 1 where not named.
        single: one threshold for all layers.
        layered: the factors, at the highest common threshold whose drop is no more.
    """

    factors: Mapping[str, float]
    single: Point
    layered: Point

    @property
    def pays(self) -> bool:
        """The factors give less work at no more drop."""
        return self.layered.drop <= self.single.drop and self.layered.cost < self.single.cost


def group_layers(layers: Sequence[str], most: int = MOST_GROUPS) -> list[tuple[str, ...]]:
    """Layers in execution order, grouped by the modules that hold them.

    The first layer, which sees the camera's noise, is a group of its own. The others are grouped
    as deep in the tree of modules as gives `most` groups at most.
    """
    first, *others = layers
    depth, grouped = 1, _by_prefix(others, 1)
    while len(deeper := _by_prefix(others, depth + 1)) < most and len(deeper) > len(grouped):
        depth, grouped = depth + 1, deeper
    return [(first,), *grouped]


def _by_prefix(layers: Sequence[str], depth: int) -> list[tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(".".join(layer.split(".")[:depth]), []).append(layer)
    return [tuple(group) for group in groups.values()]


def fit_factors(
    bench: Measures,
    start: Point,
    groups: Sequence[Sequence[str]],
    report: Report = lambda: None,
) -> dict[str, float]:
    """Factors that lower the active pixels for what they cost in points: coordinate descent.

    The objective is ln(active fraction) + price · drop. The price is what the common threshold
    pays: how much the logarithm falls for each point, near `start`.

    Args:
        bench: the frames to fit on.
        start: precision, period and threshold to start from.
        groups: layers that share a factor; the first is the network's first layer.
        report: called once per run.
    """

    def measure(factors: Mapping[str, float], scale: float = 1.0) -> Point:
        report()
        return bench.measure(start.precision, start.period, scale * start.threshold, factors)

    base = measure({})
    price = _price(base, measure({}, _SLOPE))

    def objective(point: Point) -> float:
        return _log_active(point) + price * point.drop

    factors: dict[str, float] = {}
    best = objective(base)
    for group, moves in _moves(groups):
        for move in moves:
            tried = factors | {layer: move * factors.get(layer, 1.0) for layer in group}
            value = objective(measure(tried))
            if value < best - _GAIN:
                best, factors = value, tried
                break
    return {layer: factor for layer, factor in factors.items() if factor != 1}


def _log_active(point: Point) -> float:
    return math.log(max(point.active_fraction, 1e-6))


def _price(base: Point, looser: Point) -> float:
    points, gained = looser.drop - base.drop, _log_active(base) - _log_active(looser)
    return gained / points if points > 0 and gained > 0 else _USUAL_PRICE


def _moves(
    groups: Sequence[Sequence[str]],
) -> Iterator[tuple[Sequence[str], tuple[float, ...]]]:
    """Groups in the order in which they are moved, and by what: the first move that helps stays."""
    yield groups[0], _FIRST_STEPS
    for step in _STEPS:
        for group in groups:
            yield group, (step, 1 / step)


def tune_layers(
    fit: Measures,
    held: Measures,
    start: Point,
    groups: Sequence[Sequence[str]],
    report: Report = lambda: None,
) -> LayerTuning:
    """Fit factors on some frames and set them against the single threshold on others.

    Args:
        fit: the frames to fit on.
        held: other frames, to compare on.
        start, groups, report: as in `fit_factors`; `held` reports its runs as well.
    """
    factors = fit_factors(fit, start, groups, report)

    def measure(threshold: float, factors: Mapping[str, float]) -> Point:
        report()
        return held.measure(start.precision, start.period, threshold, factors)

    single = measure(start.threshold, {})
    low, high = start.threshold / _REACH, start.threshold * _REACH
    layered = measure(low, factors)
    for _ in range(_HALVINGS if factors and layered.drop <= single.drop else 0):
        middle = math.sqrt(low * high)
        point = measure(middle, factors)
        if point.drop <= single.drop:
            low, layered = middle, point
        else:
            high = middle
    return LayerTuning(factors, single, layered)
