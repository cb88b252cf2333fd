from __future__ import annotations

import pytest
import torch
from torch import Tensor

import resq_core
from resq_core.errors import OptionError
from resq_core.experiments.steps import float_step, stream_step
from resq_core.rivals import mixed_step
from tests.resq_core.networks import Plain, moving_clip, seeded


@pytest.fixture(scope="module")
def model() -> resq_core.QuantizedModel:
    q = resq_core.quantize(seeded(Plain), "W8A8->W4A4", backend="reference")
    q.calibrate([moving_clip(8)], samples=8, also=["W8A8", "W4A4"])
    return q


def frames(count: int) -> list[Tensor]:
    return list(moving_clip(count).split(1))


def test_float_is_counted_as_32_bits(model: resq_core.QuantizedModel) -> None:
    x = frames(1)[0]
    outcome = float_step(model)(x)
    assert torch.equal(outcome.logits, model.float(x))
    assert outcome.bops == sum(model.macs(x).values()) * 1024
    assert (outcome.policy_bops, outcome.mean_bits, outcome.is_anchor) == (0, 32, True)


def test_a_mix_is_each_frame_at_its_precision_and_costs_what_resq_costs(
    model: resq_core.QuantizedModel,
) -> None:
    key, between = model.with_precision("W8A8"), model.with_precision("W4A4")
    mixed, resq = mixed_step(key, between, 3), stream_step(model, 3)
    alone = stream_step(key, 1), stream_step(between, 1)
    for i, x in enumerate(frames(7)):
        outcome, ours = mixed(x), resq(x)
        assert torch.equal(outcome.logits, alone[0 if i % 3 == 0 else 1](x).logits)
        assert outcome.is_anchor == ours.is_anchor == (i % 3 == 0)
        assert (outcome.bops, outcome.mean_bits) == (ours.bops, pytest.approx(ours.mean_bits))


def test_what_cannot_be_mixed(model: resq_core.QuantizedModel) -> None:
    frame = model.with_precision("W8A8")
    with pytest.raises(OptionError, match="expected one of single frames"):
        mixed_step(frame, model, 3)
    with pytest.raises(OptionError, match="period"):
        mixed_step(frame, frame, 0)
