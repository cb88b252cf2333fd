from __future__ import annotations

import pytest
import torch
from torch import nn

import resq_core
from resq_core.errors import InputError, OptionError
from resq_core.experiments import residual_statistics


def model() -> resq_core.QuantizedModel:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    return resq_core.quantize(network, "W8A8", backend="reference")


def test_it_equals_an_independent_computation() -> None:
    torch.manual_seed(1)
    clip = [torch.randn(1, 3, 12, 16) + 3 for _ in range(5)]
    q = model()
    first, second = residual_statistics(q, clip, 2, 3)
    assert (first.layer, second.layer) == ("0", "2")
    hidden = [q.module[0](x).relu() for x in clip]
    for found, values in ((first, clip), (second, hidden)):
        pairs = list(zip(values[2:], values, strict=False))
        assert len(pairs) == 3
        variance = sum(((x - x.mean()) ** 2).mean().item() for x, _ in pairs) / 3
        assert found.frame_variance == pytest.approx(variance, rel=1e-4)
        error = 0.0
        for x, k in pairs:
            delta = x - k
            step = 2 * delta.abs().max() / 7  # Eq. 6 at 3 bits
            codes = (delta / step).round().clamp(-4, 3)
            error += (delta - codes * step).square().mean().item() / 3
        assert found.residual_error == pytest.approx(error, rel=1e-4)


def test_a_still_clip_has_no_residuals() -> None:
    frame = torch.rand(1, 3, 12, 16)
    for layer in residual_statistics(model(), [frame] * 3, 1, 4):
        assert (layer.residual_variance, layer.residual_error) == (0, 0)
        assert layer.frame_error > 0


def test_out_of_range() -> None:
    clip = [torch.rand(1, 3, 12, 16)] * 3
    with pytest.raises(InputError, match="the clip has 3 frames; expected more than 3"):
        residual_statistics(model(), clip, 3, 4)
    for distance, bits in ((0, 4), (1, 0), (1, 9)):
        with pytest.raises(OptionError, match="expected at least 1, and 1 to 8"):
            residual_statistics(model(), clip, distance, bits)
