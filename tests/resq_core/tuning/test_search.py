"""The search on curves that are known, and on a small network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import resq_core
from resq_core import Precision, QuantizedModel
from resq_core.errors import InputError, OptionError
from resq_core.pipelines import SegmentationPipeline
from resq_core.stream import StreamOptions
from resq_core.tasks import SegmentationTask
from resq_core.tuning import (
    MOST_PER_PERIOD,
    Bench,
    Curve,
    Goal,
    Limit,
    PixelAgreement,
    Point,
    periods_for,
    search,
)
from tests.resq_core.networks import Plain, seeded

DYNAMIC = Precision.parse("W8A8->W8A{0,4,8}")
SIZE = (16, 24)


class Known:
    """Stands in for a bench: drop and cost are functions of the setting."""

    def __init__(self, drop: Callable[[int, float], float]) -> None:
        self._drop = drop
        self.measured: list[Point] = []

    def measure(self, precision: Precision, period: int, threshold: float) -> Point:
        share = 1 / period
        if not precision.is_hold:
            share += (1 - share) * 0.9 / (1 + 10 * threshold)
        drop = self._drop(period, threshold)
        point = Point(precision, period, threshold, drop, share, 8 * share, share, 100 * share)
        self.measured.append(point)
        return point

    def time_in_turn(self, points: Sequence[Point]) -> tuple[float, list[float]]:
        return 110.0, [1.1 * p.ms for p in points]


def find(
    bench: Known | Bench, limit: Limit, value: float, periods: tuple[int, ...] = (4, 8)
) -> Curve:
    stand_in: Any = bench
    return search(stand_in, [DYNAMIC], Goal(limit, value), periods)


def rising(period: int, threshold: float) -> float:
    return period * threshold


def test_a_bound_on_the_drop_is_met_and_used_up() -> None:
    bench = Known(rising)
    curve = find(bench, Limit.DROP, 0.5)
    assert curve.best is not None
    for period in (4, 8):
        inside = [p.threshold for p in curve.points if p.period == period and p.drop <= 0.5]
        edge = 0.5 / period
        assert edge / 2 ** (1 / 8) < max(inside) <= edge
    cheapest = min((p for p in curve.points if p.drop <= 0.5), key=lambda p: p.cost)
    assert (curve.best.period, curve.best.threshold) == (cheapest.period, cheapest.threshold)
    rough = next(p for p in bench.measured if p.threshold == cheapest.threshold)
    assert curve.best.ms == pytest.approx(1.1 * rough.ms)
    assert curve.w8a8_ms == 110.0
    assert len(curve.points) <= 2 * MOST_PER_PERIOD
    assert [(p.period, p.threshold) for p in curve.points] == sorted(
        (p.period, p.threshold) for p in curve.points
    )
    assert [p.period for p in curve.hold] == [4, 8]


def test_one_dent_in_the_curve_does_not_end_the_walk() -> None:
    dent = find(Known(rising), Limit.DROP, 0.5, (4,)).points[2].threshold

    def noisy(period: int, threshold: float) -> float:
        return 0.9 if threshold == dent else rising(period, threshold)

    curve = find(Known(noisy), Limit.DROP, 0.5, (4,))
    assert curve.best is not None
    assert curve.best.threshold > dent
    assert curve.best.drop <= 0.5


def test_a_curve_that_turns_back_beyond_two_misses_is_not_followed() -> None:
    curve = find(Known(lambda t, rho: 0.0 if rho > 0.2 else 1.0), Limit.DROP, 0.5, (4,))
    assert curve.best is None
    assert len(curve.points) == 2


def test_a_budget_of_bops_gives_the_least_drop_within_it() -> None:
    curve = find(Known(rising), Limit.BOPS, 0.4)
    assert curve.best is not None
    within = [p for p in curve.points if p.bops <= 0.4]
    assert curve.best.drop == min(p.drop for p in within)
    assert curve.best.bops > 0.37  # used up


def test_a_budget_of_time_holds_where_it_is_measured_side_by_side() -> None:
    bench = Known(rising)
    curve = find(bench, Limit.MS, 40.0)
    assert curve.best is not None
    assert 30.0 < curve.best.ms <= 40.0
    assert curve.best in curve.points
    assert any(p.ms <= 40.0 < 1.1 * p.ms for p in bench.measured)  # a first time said otherwise


@pytest.mark.parametrize(("limit", "value"), [(Limit.BOPS, 0.05), (Limit.MS, 1.0)])
def test_a_goal_out_of_reach_names_the_closest(limit: Limit, value: float) -> None:
    curve = find(Known(rising), limit, value)
    assert (curve.best, curve.w8a8_ms) == (None, None)
    assert curve.closest == min(curve.points, key=lambda p: p.bops)
    assert curve.closest.period == 8


def test_static_residuals_are_tried_once_a_period() -> None:
    bench: Any = Known(lambda period, threshold: 0.1 * period)
    curve = search(bench, [Precision.parse("W8A8->W8A4")], Goal(Limit.DROP, 0.5), (4, 8))
    assert [p.period for p in curve.points] == [4, 8]
    assert curve.best is not None
    assert curve.best.period == 4


@pytest.mark.parametrize("text", ["W8A8", "W8A8->W8A0"])
def test_precisions_without_residual_bits(text: str) -> None:
    bench: Any = Known(rising)
    with pytest.raises(OptionError, match="residual frames have bits"):
        search(bench, [Precision.parse(text)], Goal(Limit.DROP, 0.5), (4,))


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        (Limit.DROP, -0.1),
        (Limit.DROP, math.nan),
        (Limit.BOPS, 0.0),
        (Limit.BOPS, 1.5),
        (Limit.MS, math.inf),
    ],
)
def test_goals_out_of_range(limit: Limit, value: float) -> None:
    with pytest.raises(OptionError, match=f"{limit} is .*; expected"):
        Goal(limit, value)


def test_periods_have_to_fit_twice() -> None:
    assert periods_for(64, None) == (4, 8, 16, 32)
    assert periods_for(20, None) == (4, 8)
    assert periods_for(20, [10, 2, 10]) == (2, 10)
    with pytest.raises(InputError, match="has 20 frames; expected 24 or more, two periods of T"):
        periods_for(20, [4, 12])
    with pytest.raises(InputError, match="has 7 frames; expected 8 or more"):
        periods_for(7, None)
    with pytest.raises(OptionError, match="whole numbers from 1"):
        periods_for(64, [0])


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    q = resq_core.quantize(seeded(Plain), DYNAMIC, period=4)
    q.calibrate([torch.randn(8, 3, *SIZE)], samples=6)
    return q


@pytest.fixture(scope="module")
def bench(model: QuantizedModel) -> Bench:
    task = SegmentationTask("abcd", [(0, 0, 0)] * 4, SIZE, (0.5,) * 3, (0.25,) * 3)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8)]
    for _ in range(11):
        step = rng.integers(-12, 13, (*SIZE, 3))
        frames.append((frames[-1].astype(int) + step).clip(0, 255).astype(np.uint8))

    def open_stream(precision: Precision, options: StreamOptions) -> SegmentationPipeline:
        stream = model.with_precision(precision).stream(
            options.period, str(options.reference), "relative", options.policy.threshold
        )
        return SegmentationPipeline(stream, task)

    return Bench(frames, open_stream, model.options, PixelAgreement)


def test_what_a_bench_measures(bench: Bench) -> None:
    frames = bench.measure(Precision(8, 8), 1, 0.0)
    assert (frames.drop, frames.mean_bits, frames.active_fraction) == (0.0, 8.0, 1.0)
    assert frames.bops == 1.0
    hold = bench.measure(Precision.parse("W8A8->W8A0"), 4, 0.0)
    assert hold.bops == hold.active_fraction == 0.25
    fine, coarse = bench.measure(DYNAMIC, 4, 0.0), bench.measure(DYNAMIC, 4, 1.0)
    assert fine.drop < coarse.drop <= hold.drop
    assert fine.bops > coarse.bops > hold.bops
    assert fine.ms > 0
    w8a8_ms, (ms,) = bench.time_in_turn([fine])
    assert w8a8_ms > 0 < ms


def test_a_search_on_a_network_keeps_its_budget(bench: Bench) -> None:
    reports: list[Point] = []
    curve = search(bench, [DYNAMIC], Goal(Limit.BOPS, 0.7), (2, 4), reports.append)
    assert curve.best is not None
    again = bench.measure(DYNAMIC, curve.best.period, curve.best.threshold)
    assert again.bops <= 0.7
    assert again.drop == curve.best.drop
    settings = sorted((p.period, p.threshold) for p in reports)
    assert settings == [(p.period, p.threshold) for p in curve.points]


def test_a_bench_without_frames(model: QuantizedModel) -> None:
    def open_stream(precision: Precision, options: StreamOptions) -> Any:
        raise AssertionError("no stream is needed")

    with pytest.raises(InputError, match="no frame"):
        Bench([], open_stream, model.options, PixelAgreement)
