from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from resq_core import Precision
from resq_core.tuning import Point, fit_factors, group_layers, layer_runs, tune_layers

DYNAMIC = Precision.parse("W8A8->W8A{0,8}")
START = Point(DYNAMIC, 8, 0.1, 0, 0, 0, 0, 0)
GROUPS = [("first",), ("a.1", "a.2"), ("b",)]


class Layered:
    """A network whose drop comes from one layer and whose work comes from the others."""

    def __init__(self, weak: str, work: Mapping[str, float]) -> None:
        self._weak, self._work = weak, work
        self.runs = 0

    def measure(
        self, precision: Precision, period: int, threshold: float, factors: Mapping[str, float]
    ) -> Point:
        self.runs += 1

        def at(layer: str) -> float:
            return threshold * factors.get(layer, 1.0)

        others = sum(at(layer) for layer in self._work)
        drop = 10 * at(self._weak) + 0.1 * others
        active = sum(share / (1 + 10 * at(layer)) for layer, share in self._work.items())
        return Point(precision, period, threshold, drop, active, 8 * active, active, 100 * active)


WORK = {"first": 0.02, "a.1": 0.3, "a.2": 0.3, "b": 0.3}


def bench(weak: str = "first") -> Any:
    return Layered(weak, WORK)


def test_the_weak_layer_is_lowered_and_the_others_are_raised() -> None:
    stand_in = bench()
    factors = fit_factors(stand_in, START, GROUPS)
    assert factors["first"] < 1
    assert factors["a.1"] == factors["a.2"] > 1
    assert factors["b"] > 1
    assert stand_in.runs <= layer_runs(len(GROUPS))


def test_factors_pay_on_other_frames_at_no_more_drop() -> None:
    found = tune_layers(bench(), bench(), START, GROUPS)
    assert found.pays
    assert found.layered.drop <= found.single.drop
    assert found.layered.active_fraction < 0.8 * found.single.active_fraction
    again = bench().measure(DYNAMIC, 8, 1.1 * found.layered.threshold, found.factors)
    assert again.drop > found.single.drop  # the common threshold is used up


def test_factors_that_other_frames_do_not_confirm_do_not_pay() -> None:
    assert not tune_layers(bench(), bench(weak="b"), START, GROUPS).pays


def test_noise_that_only_a_large_factor_stops_is_found() -> None:
    """Nothing changes until the first layer's threshold is eight times as high."""

    class Noisy(Layered):
        def measure(
            self, precision: Precision, period: int, threshold: float, factors: Mapping[str, float]
        ) -> Point:
            super().measure(precision, period, threshold, factors)
            active = 0.2 if threshold * factors.get("first", 1.0) >= 0.8 else 0.9
            return Point(precision, period, threshold, 0.1, active, 8 * active, active, 1)

    noisy: Any = Noisy("b", WORK)
    assert fit_factors(noisy, START, GROUPS)["first"] >= 8


def test_nothing_to_gain_gives_no_factors() -> None:
    flat = Layered("elsewhere", {})
    stand_in: Any = flat
    found = tune_layers(stand_in, stand_in, START, [("first",)])
    assert found.factors == {}
    assert not found.pays


@pytest.mark.parametrize(
    ("layers", "most", "groups"),
    [
        (["s", "a.0.x", "a.0.y", "a.1.x", "b"], 24, 5),
        (["s", "a.0.x", "a.0.y", "a.1.x", "b"], 4, 4),
        (["s", "a.0.x", "a.0.y", "a.1.x", "b"], 3, 3),
        (["only"], 24, 1),
    ],
)
def test_layers_are_grouped_by_their_modules(layers: list[str], most: int, groups: int) -> None:
    found = group_layers(layers, most)
    assert found[0] == (layers[0],)
    assert sorted(layer for group in found for layer in group) == sorted(layers)
    assert len(found) == groups
