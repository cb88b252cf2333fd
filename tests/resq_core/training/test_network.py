"""What is trained is what runs: the same outputs, with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import resq_core
from resq_core import QuantizedModel
from resq_core.errors import CalibrationError, InputError
from resq_core.training import TrainedNetwork, squared_error
from tests.resq_core.networks import moving_clip, seeded

SIZE = (24, 32)


class Row(nn.Module):
    """Convolutions and batch norm in a row: nothing of it is kept in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.third = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.last = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.second(x).relu()
        result: Tensor = self.last(self.third(x).relu())
        return result


def calibrated(precision: str, **options: str) -> QuantizedModel:
    model = resq_core.quantize(seeded(Row), precision, period=8, backend="reference", **options)
    model.calibrate([moving_clip(8, 1, (1, 3, *SIZE))], samples=8, points=10)
    return model


def clip(seed: int, count: int = 4) -> list[Tensor]:
    return [x[None] for x in moving_clip(count, seed, (1, 3, *SIZE))]


def assert_alike(ours: Sequence[Tensor], streamed: Sequence[Tensor]) -> None:
    for a, b in zip(ours, streamed, strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


@pytest.mark.parametrize(
    ("reference", "grid"), [("tracking", "aligned"), ("keyframe", "free"), ("previous", "aligned")]
)
@pytest.mark.parametrize(
    "precision", ["W8A8->W8A4", "W8A8->W4A4", "W8A8->W8A{0,4,8}", "W8A8->W4A{0,4,8}", "W8A8->W8A0"]
)
def test_it_computes_what_a_stream_does(precision: str, grid: str, reference: str) -> None:
    frames = clip(2)
    network = TrainedNetwork(calibrated(precision, grid=grid, reference=reference), frames[0].shape)
    stream = network.quantized().stream()
    assert_alike(network(frames), [stream.step(x).output for x in frames])


@pytest.mark.parametrize("precision", ["W4A4", "W4A4->W3A3", "W4A4->W4A4"])
def test_codes_without_a_sign_are_trained_as_they_run(precision: str) -> None:
    model = resq_core.quantize(seeded(Row), precision, period=8, backend="reference")
    size = (1, 3, *SIZE)
    model.calibrate([moving_clip(8, 1, size)], samples=8, points=10, unsigned=True)
    frames = clip(2)
    network = TrainedNetwork(model, frames[0].shape)
    result = network.quantized()
    assert result.encodings.unsigned == model.encodings.unsigned
    assert any(result.encodings.unsigned.values())
    stream = result.stream()
    assert_alike(network(frames), [stream.step(x).output for x in frames])


@pytest.mark.parametrize("policy", ["relative", "paper"])
def test_pictures_of_a_batch_do_not_mix(policy: str) -> None:
    clips = [clip(seed) for seed in (2, 3)]
    frames = [torch.cat(pair) for pair in zip(*clips, strict=True)]
    network = TrainedNetwork(calibrated("W8A8->W8A{0,4,8}", policy=policy), frames[0].shape)
    ours = network(frames)
    for i, one in enumerate(clips):
        stream = network.quantized().stream()
        assert_alike([z[i : i + 1] for z in ours], [stream.step(x).output for x in one])


def test_frames_alone_are_keyframes() -> None:
    frames = clip(2)
    network = TrainedNetwork(calibrated("W4A4"), frames[0].shape)
    stream = network.quantized().stream()
    assert_alike(network(frames), [stream.step(x).output for x in frames])


def test_products_in_half_the_digits_stay_close_and_learn() -> None:
    frames, model = clip(2), calibrated("W8A8->W4A4")
    whole = TrainedNetwork(model, frames[0].shape)
    mixed = TrainedNetwork(model, frames[0].shape, mixed=True)
    assert whole.about | {"mixed": "True"} == mixed.about != whole.about
    for a, b in zip(mixed(frames), whole(frames), strict=True):
        assert a.dtype == torch.float32
        assert 0 < (a - b).abs().mean() < 0.02 * b.std()
    mixed(frames)[-1].square().mean().backward()
    for name, parameter in mixed.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None, name
        assert 0 < parameter.grad.abs().sum() < torch.inf, name


@pytest.mark.parametrize("precision", ["W8A8->W4A4", "W8A8->W8A{0,4,8}"])
def test_gradients_reach_all_that_learns_and_nothing_else(precision: str) -> None:
    network = TrainedNetwork(calibrated(precision, grid="free"), (1, 3, *SIZE))
    buffers = {name: value.clone() for name, value in network.network.named_buffers()}
    outputs = network(clip(2))
    outputs[-1].square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
    for name, value in network.network.named_buffers():
        assert torch.equal(value, buffers[name]), name
    network.train()
    assert not network.network.training, "statistics of batch norm stay"


def test_a_scale_has_the_gradient_of_its_rounding() -> None:
    """By a difference of the loss, where everything is clamped and the output linear in it."""
    torch.manual_seed(0)
    model = resq_core.quantize(nn.Conv2d(3, 4, 3), "W8A8", backend="reference")
    model.calibrate([moving_clip(4, 1, (1, 3, *SIZE))], samples=4, points=10)
    network = TrainedNetwork(model, (1, 3, *SIZE))
    frames = [100 * clip(2)[0].sign()]

    def loss() -> Tensor:
        value: Tensor = network(frames)[0].square().mean()
        return value

    value = loss()
    value.backward()
    scale = network.log_scales[0]
    assert scale.grad is not None
    with torch.no_grad():
        scale += 1e-3
        moved = loss()
    assert (moved - value).item() / 1e-3 == pytest.approx(scale.grad.item(), rel=0.01)


def test_what_was_learned_is_what_is_saved(tmp_path: object) -> None:
    model = calibrated("W8A8->W4A4")
    network = TrainedNetwork(model, (1, 3, *SIZE))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.05)
    learned = network.quantized()
    frames = clip(2)
    stream = learned.stream()
    assert_alike(network(frames), [stream.step(x).output for x in frames])
    assert learned.options == model.options
    with pytest.raises(CalibrationError, match="residual W8A4"):
        learned.with_precision("W8A8->W8A4")  # of weights that are no more
    stream = model.stream()
    assert not torch.allclose(stream.step(frames[0]).output, network(frames)[0], rtol=1e-3)


def test_it_says_what_is_missing() -> None:
    with pytest.raises(CalibrationError, match="frame W8A8"):
        TrainedNetwork(resq_core.quantize(seeded(Row), "W8A8"), (1, 3, *SIZE))
    network = TrainedNetwork(calibrated("W8A8"), (1, 3, *SIZE))
    with pytest.raises(InputError, match=r"frame 1 has shape \[1, 3, 8, 8\]; expected"):
        network([clip(2)[0], torch.zeros(1, 3, 8, 8)])


def test_training_wins_back_what_two_bits_lose() -> None:
    """Towards the float network, on clips that it has not seen."""
    model = calibrated("W2A2", granularity="tensor")
    teacher = seeded(Row)
    network = TrainedNetwork(model, (2, 3, *SIZE))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)

    def loss(seeds: Sequence[int]) -> Tensor:
        pairs = zip(*(clip(seed, 3) for seed in seeds), strict=True)
        frames = [torch.cat(pair) for pair in pairs]
        with torch.no_grad():
            wanted = [teacher(x) for x in frames]
        return squared_error(network(frames), wanted)

    with torch.no_grad():
        before = loss([90, 91]).item()
    for step in range(40):
        value = loss([2 * step + 10, 2 * step + 11])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with torch.no_grad():
        after = loss([90, 91]).item()
    assert after < 0.6 * before
