"""Some seconds that show whether the backends of this installation agree, and how fast each is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from resq_core.backends import Backend, Serving
from resq_core.model import QuantizedModel, quantize

__all__ = ["DEVICE_TOLERANCE", "TOLERANCE", "BackendTimes", "SelfTest", "compare", "self_test"]

TOLERANCE = 1e-5
"""Largest difference allowed, of the largest output. Linear layers are exact in whole numbers, and
everything a code depends on is rounded alike; what is left is the last bit of a float32."""

DEVICE_TOLERANCE = 0.02
"""The same for another device than the CPU, which sums in an order of its own: a code beside a
rounding boundary may fall to the other side, and moves an output by a step of an 8-bit quantizer,
1/128 of its range. Reasoned and not measured."""

_PERIOD = 8
_PERIODS = 12
_SIZE = (192, 320)


@dataclass(frozen=True, slots=True)
class BackendTimes:
    """Medians of one backend, milliseconds per frame."""

    keyframe_ms: float
    residual_ms: float


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the comparison found.

    Attributes:
        frames: frames that every backend ran.
        times: by backend; the first one is what the others are compared with.
        difference: largest |difference| of any output value between the first backend and
            another, divided by the first one's largest |output|; None where there was one only.
        serving: the last one, which is what this machine would choose, and why.
        tolerance: largest difference allowed.
    """

    frames: int
    times: dict[str, BackendTimes]
    difference: float | None
    serving: Serving
    tolerance: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        """No two backends differ by more than `tolerance`; true of a single one."""
        return self.difference is None or self.difference <= self.tolerance


def self_test(device: str = "cpu") -> SelfTest:
    """Run a small network with fixed weights on fixed frames, on every backend that is here.

    Args:
        device: another than the CPU is compared with it.

    Raises:
        OptionError: there is no such device.
    """
    frames = _frames()
    return compare(_models(frames, device), frames)


def compare(models: Mapping[str, QuantizedModel], frames: Sequence[Tensor]) -> SelfTest:
    """Step one stream per backend through the same frames.

    Args:
        models: the same calibrated network by backend, the one that defines the result first.
        frames: float32 [1, C, H, W], more than two periods of the models: the first period
            is a warm-up and is not timed.
    """
    outputs: dict[str, list[Tensor]] = {}
    times: dict[str, BackendTimes] = {}
    for backend, model in models.items():
        outputs[backend], times[backend] = _run(model, frames)
    serving = list(models.values())[-1].serving(frames[0])
    tolerance = TOLERANCE if serving.device == "cpu" else DEVICE_TOLERANCE
    first, *others = outputs.values()
    if not others:
        return SelfTest(len(frames), times, None, serving, tolerance)
    largest = max(float(o.abs().max()) for o in first)
    worst = max(
        float((a - b).abs().nan_to_num(torch.inf).max())
        for other in others
        for a, b in zip(first, other, strict=True)
    )
    return SelfTest(len(frames), times, worst / largest, serving, tolerance)


def _run(model: QuantizedModel, frames: Sequence[Tensor]) -> tuple[list[Tensor], BackendTimes]:
    stream = model.stream()
    outputs: list[Tensor] = []
    ms: dict[bool, list[float]] = {True: [], False: []}
    for index, frame in enumerate(frames):
        start = time.perf_counter()
        result = stream.step(frame)
        output = result.output.cpu()  # a GPU is waited for
        if index >= stream.options.period:
            ms[result.is_anchor].append(1e3 * (time.perf_counter() - start))
        outputs.append(output)
    stream.close()
    return outputs, BackendTimes(median(ms[True]), median(ms[False]))


def _models(frames: Sequence[Tensor], device: str) -> dict[str, QuantizedModel]:
    """The network by backend, calibrated once: the reference, and last what `auto` chooses."""
    chosen = _quantized(Backend.AUTO)
    chosen.calibrate([frames[: 2 * _PERIOD]], samples=8)
    if device != "cpu":
        there = _quantized(Backend.AUTO, device).with_encodings(chosen.encodings)
        reference = _quantized(Backend.REFERENCE).with_encodings(chosen.encodings)
        return {"reference": reference, there.serving(frames[0]).backend: there}
    if chosen.serving(frames[0]).reason is not None:
        return {"reference": chosen}
    reference = _quantized(Backend.REFERENCE).with_encodings(chosen.encodings)
    return {"reference": reference, "native": chosen}


def _quantized(backend: Backend, device: str = "cpu") -> QuantizedModel:
    precision = "W8A8->W8A{0,4,8}"
    return quantize(_network(), precision, period=_PERIOD, backend=backend, device=device)


def _network() -> nn.Module:
    """Stride, depthwise, ReLU and a classifier: what residual layers meet in a real network."""
    generator = torch.Generator().manual_seed(7)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 19, 1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )
    for parameter in network.parameters():
        fan_in = max(1, parameter[0].numel())
        values = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
        parameter.data.copy_(values)
    return network.eval()


def _frames() -> list[Tensor]:
    """A noisy still picture with a bright square that moves four pixels per frame."""
    generator = torch.Generator().manual_seed(11)
    height, width = _SIZE
    still = torch.rand(1, 3, height, width, generator=generator)
    frames: list[Tensor] = []
    for index in range(_PERIOD * _PERIODS):
        frame = still + 0.005 * torch.randn(still.shape, generator=generator)
        left = (4 * index) % (width - 48)
        frame[:, :, 72:120, left : left + 48] = 1.5
        frames.append(frame)
    return frames
