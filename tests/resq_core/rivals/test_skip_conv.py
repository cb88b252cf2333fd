from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import resq_core
from resq_core.bops import Counting, FrameBops
from resq_core.errors import OptionError
from resq_core.experiments.steps import stream_step
from resq_core.rivals import SkipConv
from tests.resq_core.networks import Plain, moving_clip, seeded


class Kinds(nn.Module):
    """A strided, a dilated grouped, a transposed convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.grouped(self.stem(x).relu()).relu()).relu()
        result: Tensor = self.mix(y.movedim(1, -1)).movedim(-1, 1)
        return result


@cache
def model(network: type[nn.Module]) -> resq_core.QuantizedModel:
    q = resq_core.quantize(seeded(network), "W8A8", backend="reference")
    q.calibrate([moving_clip(8)], samples=8)
    return q


def frames(count: int) -> list[Tensor]:
    return list(moving_clip(count).split(1))


@pytest.mark.parametrize("network", [Plain, Kinds])
def test_at_threshold_0_it_is_the_float_network(network: type[nn.Module]) -> None:
    q = model(network)
    skip = SkipConv(q, 0, 4, in_float=True)
    dense = sum(q.macs(frames(1)[0]).values()) * 32 * 32
    for i, x in enumerate(frames(7)):
        outcome = skip(x)
        torch.testing.assert_close(outcome.logits, q.float(x), rtol=1e-5, atol=1e-5)
        assert outcome.is_anchor == (i % 4 == 0)
        if outcome.is_anchor:
            assert (outcome.bops, outcome.policy_bops, outcome.mean_bits) == (dense, 0, 32)
        else:  # a square that walks changes a part of the picture
            assert 0 < outcome.bops < dense
            assert outcome.policy_bops > 0


@pytest.mark.parametrize("network", [Plain, Kinds])
def test_at_threshold_0_it_is_frame_quantization(network: type[nn.Module]) -> None:
    q = model(network)
    skip, wanted = SkipConv(q, 0, 4), stream_step(q, 1)
    for x in frames(7):
        assert torch.equal(skip(x).logits, wanted(x).logits)


@pytest.mark.parametrize("in_float", [True, False])
def test_a_clip_that_does_not_change_costs_its_gates(in_float: bool) -> None:
    q = model(Plain)
    skip = SkipConv(q, 0, 100, in_float)
    first = skip(frames(1)[0])
    for _ in range(3):
        outcome = skip(frames(1)[0])
        assert (outcome.bops, outcome.mean_bits, outcome.is_anchor) == (0, 0, False)
        assert torch.equal(outcome.logits, first.logits)
        # a multiply-add per input value and per place of the 3×3 window
        gates = 16 * 24 * (3 + 9 + 8 + 9) * (32 * 32 if in_float else 8 * 8)
        assert outcome.policy_bops == gates


def test_what_is_computed_is_what_the_change_reaches() -> None:
    """One pixel: 3×3 outputs of the first layer, 5×5 of the second; in both countings."""
    q = model(Plain)
    skip = SkipConv(q, 0, 100, in_float=True)
    x = frames(1)[0]
    skip.run(x)
    changed = x.clone()
    changed[..., 8, 12] += 1
    layers = skip.run(changed)[0].layers
    assert [round(r.active_fraction * 16 * 24) for r in layers] == [9, 25]
    bops = [9 * 8 * 27 * 1024, 25 * 4 * 72 * 1024]
    assert FrameBops.of(layers).frame == pytest.approx(sum(bops))
    assert FrameBops.of(layers, Counting.PAPER).frame == 0  # first and last are all there are


def test_a_gate_that_nothing_passes_repeats_the_keyframe() -> None:
    q = model(Plain)
    skip = SkipConv(q, 1e9, 3)
    outputs = [skip(x) for x in frames(6)]
    assert [o.bops > 0 for o in outputs] == [True, False, False] * 2
    assert torch.equal(outputs[0].logits, outputs[2].logits)
    assert not torch.equal(outputs[0].logits, outputs[3].logits)


def test_a_higher_threshold_computes_less_and_is_further_off() -> None:
    q = model(Plain)
    spent, errors = [], []
    for threshold in (0.0, 1.0, 1e9):
        skip = SkipConv(q, threshold, 8)
        outcomes = [skip(x) for x in moving_clip(8).add(0.02 * torch.randn(8, 1, 16, 24)).split(1)]
        spent.append(sum(o.bops for o in outcomes))
        errors.append(
            sum(
                (o.logits - q.float(x)).square().mean().item()
                for o, x in zip(outcomes, frames(8), strict=True)
            )
        )
    assert spent[0] > spent[1] > spent[2]
    assert errors[0] < errors[2]


def test_another_size_starts_again() -> None:
    skip = SkipConv(model(Plain), 0, 100)
    skip(torch.zeros(1, 3, 16, 24))
    assert skip(torch.zeros(1, 3, 24, 16)).is_anchor


@pytest.mark.parametrize("threshold", [-1, float("nan"), float("inf")])
def test_out_of_range(threshold: float) -> None:
    q = model(Plain)
    with pytest.raises(OptionError, match="threshold"):
        SkipConv(q, threshold, 3)
    with pytest.raises(OptionError, match="period"):
        SkipConv(q, 0, 0)
