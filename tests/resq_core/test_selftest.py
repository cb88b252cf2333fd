from __future__ import annotations

import torch
from torch import nn

from resq_core import QuantizedModel, quantize
from resq_core.selftest import TOLERANCE, compare

FRAMES = list(torch.rand(6, 1, 3, 16, 16, generator=torch.Generator().manual_seed(3)))


def model(nudge: float = 0.0) -> QuantizedModel:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    network[2].weight.data[0] += nudge
    made = quantize(network.eval(), "W8A8->W8A{0,4,8}", period=2)
    made.calibrate([FRAMES], samples=4)
    return made


def test_equal_backends_agree_and_both_are_timed() -> None:
    found = compare({"one": model(), "other": model()}, FRAMES)
    assert found.difference == 0
    assert found.agrees
    assert found.frames == len(FRAMES)
    for times in (found.times["one"], found.times["other"]):
        assert times.keyframe_ms > 0
        assert times.residual_ms > 0


def test_a_backend_with_one_wrong_output_channel_is_found() -> None:
    found = compare({"right": model(), "wrong": model(nudge=0.5)}, FRAMES)
    assert found.difference is not None
    assert found.difference > TOLERANCE
    assert not found.agrees


def test_one_backend_alone_has_nothing_to_disagree_with() -> None:
    found = compare({"only": model()}, FRAMES)
    assert found.difference is None
    assert found.agrees
