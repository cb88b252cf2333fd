from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import resq_core
from resq_core.errors import InputError, OptionError
from resq_core.experiments import LayerBits, bit_shares, sequence_bits


def model(precision: str = "W8A8->W8A{0,4,8}") -> resq_core.QuantizedModel:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    q = resq_core.quantize(network, precision, backend="reference")
    q.calibrate([torch.cat(walk())], samples=4)
    return q


def walk() -> list[Tensor]:
    """A square that walks over a still picture."""
    torch.manual_seed(1)
    frames = torch.rand(1, 3, 16, 24).repeat(4, 1, 1, 1)
    for i in range(4):
        frames[i, :, 4:10, 3 + 2 * i : 9 + 2 * i] = 2
    return list(frames.split(1))


@pytest.mark.parametrize("reference", ["keyframe", "previous", "tracking"])
def test_they_are_the_bits_that_a_stream_spends(reference: str) -> None:
    q, frames = model(), walk()
    options = q.options.but(period=9, reference=reference, threshold=0.02)
    found = sequence_bits(q, frames, options)
    stream = q.stream(period=9, reference=reference, threshold=0.02)
    stream.step(frames[0])
    assert len(found) == 3
    for layers, x in zip(found, frames[1:], strict=True):
        reports = stream.step(x, layers=True).layers
        assert reports is not None
        assert list(layers) == [report.name for report in reports]
        for report in reports:
            maps = layers[report.name]
            assert maps.macs == report.macs
            assert set(maps.bits.ravel()) <= {0, 4, 8}
            assert maps.bits.mean() == pytest.approx(report.mean_bits, abs=1e-4)
    assert found[0]["0"].bits.shape == (16, 24)
    assert found[0]["0"].bits[0, 0] == 0  # nothing changes there
    assert found[0]["0"].bits[5, 10] == 8


def test_shares_are_weighted_by_macs() -> None:
    torch.manual_seed(0)
    big = LayerBits(30, torch.tensor([[0, 8]]).numpy())
    small = LayerBits(10, torch.tensor([[4, 4], [0, 8]]).numpy())
    shares = bit_shares({"a": big, "b": small}, (0, 4, 8))
    assert shares == {0: 0.4375, 4: 0.125, 8: 0.4375}
    with pytest.raises(InputError, match="no layer"):
        bit_shares({}, (0, 8))


def test_what_cannot_be_mapped() -> None:
    q, frames = model(), walk()
    with pytest.raises(InputError, match="has 1 frames; expected 2"):
        sequence_bits(q, frames[:1], q.options)
    with pytest.raises(InputError, match="differ in size"):
        sequence_bits(q, [frames[0], frames[1][..., 1:]], q.options)
    with pytest.raises(OptionError, match="expected residual frames"):
        sequence_bits(q.with_precision("W8A8"), frames, q.options)
