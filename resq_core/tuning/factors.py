"""Thresholds layer by layer: where a change matters, it is let through; elsewhere it is not.

One threshold for all layers treats a change alike wherever it arises. How much each group of
layers gives up, and saves, is measured by moving its threshold alone, and a Lagrangian choice over
the groups then spends the drop where it saves most. It takes the effects as additive, which they
are not quite, so that the result counts only where other frames confirm it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from resq_core.tuning.bench import Bench, Point

__all__ = ["LAYER_RUNS", "LayerTuning", "fit_factors", "group_layers", "tune_layers"]

MOST_GROUPS = 24
STEP = 3.0  # what a group's threshold is multiplied and divided by
_MULTIPLIERS = tuple(10 ** (0.1 * i - 6) for i in range(80))  # of the drop, in the Lagrangian
_REACH = 9.0  # how far the common threshold is moved to give the same drop, both ways
_HALVINGS = 6
LAYER_RUNS = _HALVINGS + 3
"""Runs that `tune_layers` makes at most, beside two per group."""

Report = Callable[[], None]
"""Called once per run of a clip."""


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
    bench: Bench,
    start: Point,
    groups: Sequence[Sequence[str]],
    report: Report = lambda: None,
) -> dict[str, float]:
    """Factors that should lower the active pixels at the same drop.

    Args:
        bench: the frames to fit on.
        start: precision, period and threshold to start from.
        groups: layers that share a factor.
        report: called twice per group, and once before.
    """

    def measure(factors: Mapping[str, float]) -> Point:
        report()
        return bench.measure(start.precision, start.period, start.threshold, factors)

    base = measure({})
    effects: list[dict[float, tuple[float, float]]] = []  # of each group: factor → drop, active
    for group in groups:
        moved = {f: measure(dict.fromkeys(group, f)) for f in (STEP, 1 / STEP)}
        changes = {
            f: (p.drop - base.drop, p.active_fraction - base.active_fraction)
            for f, p in moved.items()
        }
        effects.append({1.0: (0.0, 0.0), **changes})
    chosen = _choose(effects)
    return {
        layer: factor
        for group, factor in zip(groups, chosen, strict=True)
        for layer in group
        if factor != 1
    }


def _choose(effects: Sequence[Mapping[float, tuple[float, float]]]) -> list[float]:
    """A factor per group: the least active pixels among choices that should not raise the drop."""
    best: tuple[float, list[float]] = (0.0, [1.0] * len(effects))
    for multiplier in _MULTIPLIERS:
        choice = [min(e, key=lambda f: e[f][1] + multiplier * e[f][0]) for e in effects]
        drop = sum(e[f][0] for e, f in zip(effects, choice, strict=True))
        active = sum(e[f][1] for e, f in zip(effects, choice, strict=True))
        if drop <= 0 and active < best[0]:
            best = (active, choice)
    return best[1]


def tune_layers(
    fit: Bench,
    held: Bench,
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
