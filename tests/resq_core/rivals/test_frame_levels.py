from __future__ import annotations

import pytest
import torch
from torch import Tensor

import resq_core
from resq_core.errors import InputError, OptionError
from resq_core.rivals import FrameLevels, agreement, oracle_step, replay_step, shuffled
from tests.resq_core.networks import Plain, moving_clip, seeded

NAMES = ("float", "W8A8", "W2A2", "skip")


@pytest.fixture(scope="module")
def model() -> resq_core.QuantizedModel:
    q = resq_core.quantize(seeded(Plain), "W8A8", backend="reference")
    q.calibrate([moving_clip(8)], samples=8, also=["W2A2"])
    return q


def frames(count: int) -> list[Tensor]:
    """Still, with a change in the middle."""
    still, moved = moving_clip(4)[[0, 3]].split(1)
    return [moved if count // 3 <= i < count // 2 else still for i in range(count)]


def test_levels_go_from_cheap_to_dear(model: resq_core.QuantizedModel) -> None:
    assert FrameLevels(model, NAMES).names == ("skip", "W2A2", "W8A8", "float")


@pytest.mark.parametrize("budget", [0.0, 0.02, 0.3, 1.0])
def test_the_oracle_keeps_its_budget_at_the_least_cost(
    model: resq_core.QuantizedModel, budget: float
) -> None:
    levels, choices = FrameLevels(model, NAMES), list[str]()
    step = oracle_step(levels, budget, choices)
    before = None
    for i, x in enumerate(frames(12)):
        outcome = step(x)
        wanted = model.float(x)
        assert 1 - agreement(outcome.logits, wanted) <= budget
        for cheaper in levels.names[: levels.names.index(choices[i])]:
            if cheaper != "skip" or before is not None:
                tried = levels.run(cheaper, x, before).logits
                assert 1 - agreement(tried, wanted) > budget
        before = outcome.logits
    assert len(choices) == 12
    assert choices[0] != "skip"
    if budget == 1:
        assert choices == ["W2A2", *["skip"] * 11]
    if budget == 0:  # the same frame again costs nothing, and what is float agrees with itself
        assert choices.count("skip") >= 6
        assert choices[4] != "skip"


def test_without_float_it_takes_what_agrees_most(model: resq_core.QuantizedModel) -> None:
    levels, choices = FrameLevels(model, ["W8A8", "W2A2"]), list[str]()
    x = frames(1)[0]
    oracle_step(levels, 0.0, choices)(x)
    agrees = {n: agreement(levels.run(n, x, None).logits, model.float(x)) for n in levels.names}
    assert max(agrees.values()) < 1
    assert choices == [max(agrees, key=lambda name: agrees[name])]


def test_random_choices_cost_what_the_oracle_costs(model: resq_core.QuantizedModel) -> None:
    levels, choices = FrameLevels(model, NAMES), list[str]()
    oracle = oracle_step(levels, 0.02, choices)
    spent = sum(oracle(x).bops for x in frames(12))
    orders = {tuple(shuffled(choices, seed)) for seed in range(5)}
    assert len(orders) > 1
    for order in orders:
        assert order[0] == choices[0]
        assert sorted(order) == sorted(choices)
        step = replay_step(levels, order)
        assert sum(step(x).bops for x in frames(12)) == spent
    assert shuffled(choices, 3) == shuffled(choices, 3)


def test_replay_repeats_the_output_before(model: resq_core.QuantizedModel) -> None:
    step = replay_step(FrameLevels(model, NAMES), ["W8A8", "skip", "skip"])
    first, *rest = (step(x) for x in frames(3))
    assert [o.is_anchor for o in (first, *rest)] == [True, False, False]
    for outcome in rest:
        assert torch.equal(outcome.logits, first.logits)
        assert (outcome.bops, outcome.mean_bits) == (0, 0)
    with pytest.raises(InputError, match="there are 3 choices"):
        step(frames(1)[0])


def test_what_cannot_be(model: resq_core.QuantizedModel) -> None:
    with pytest.raises(OptionError, match="one level at least"):
        FrameLevels(model, ["skip"])
    with pytest.raises(OptionError, match="expected skip, float"):
        FrameLevels(model, ["W8A8->W8A0"])
    with pytest.raises(OptionError, match="budget is 2"):
        oracle_step(FrameLevels(model, ["W8A8"]), 2, [])
    with pytest.raises(InputError, match="cannot be skipped"):
        replay_step(FrameLevels(model, NAMES), ["skip"])(frames(1)[0])
