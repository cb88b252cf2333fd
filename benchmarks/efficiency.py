"""Where the time of our residual frames goes, on one thread: bookkeeping o and efficiency η.

See `benchmarks.cpu` for what the two are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from resq_core.backends.native_executor import NativeExecutor, StepTime
from resq_core.bops import LayerReport
from resq_core.graph_cache import GraphCache
from resq_core.linear_op import Kind, LinearOp
from resq_core.model import QuantizedModel
from resq_core.state import StreamState
from resq_core.stream import StreamOptions

__all__ = ["Convolution", "Products", "one_thread", "onednn_rate", "time_spent"]

_CHANNELS = 64
_ACTIVE = (0.05, 0.3)
_DENSE = 3  # dense frames before each keyframe
_WARM_UP, _TIMED = 5, 21  # runs of one convolution


@dataclass(frozen=True)
class Convolution:
    """A convolution's shapes: input [N, C, H, W], weight [O, C/g, kh, kw]."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, op: LinearOp, x: Tensor) -> Convolution | None:
        """A layer's, or None if it is no convolution of 64 channels in and out of each group."""
        shape = tuple(op.weight.shape)
        if op.kind is not Kind.CONV2D or min(shape[0] // op.groups, shape[1]) < _CHANNELS:
            return None
        if isinstance(op.padding, tuple):
            padding = op.padding
        else:
            reach = [d * (k - 1) for d, k in zip(op.dilation, shape[2:], strict=True)]
            padding = (0, 0) if op.padding == "valid" else (reach[0] // 2, reach[1] // 2)
        return cls(tuple(x.shape), shape, op.stride, padding, op.dilation, op.groups)

    @property
    def macs_per_pixel(self) -> int:
        """Multiply-accumulates of one output pixel, all channels."""
        return int(torch.Size(self.weight).numel())


@dataclass
class Products:
    """Sums over the indirect products of residual frames, by shape."""

    layers: dict[str, Convolution]
    macs: dict[Convolution, int] = field(default_factory=dict)
    seconds: dict[Convolution, float] = field(default_factory=dict)

    def add(self, reports: Sequence[LayerReport], times: Sequence[StepTime]) -> None:
        """Add a frame's layers of which 5 to 30 % of the outputs are active."""
        active = {report.name: report.active_fraction for report in reports}
        for step in times:
            shape = self.layers.get(step.name)
            if shape is not None and _ACTIVE[0] <= active[step.name] <= _ACTIVE[1]:
                done = step.pixels * shape.macs_per_pixel
                self.macs[shape] = self.macs.get(shape, 0) + done
                self.seconds[shape] = self.seconds.get(shape, 0.0) + step.product_seconds

    def efficiency(self, dense_rate: Callable[[Convolution], float]) -> float | None:
        """η: rates over dense ones in MAC/s, weighted by MACs; None where nothing was added."""
        if not self.macs:
            return None
        shares = [n * n / self.seconds[s] / dense_rate(s) for s, n in self.macs.items()]
        return sum(shares) / sum(self.macs.values())


def time_spent(
    model: QuantizedModel, dense: QuantizedModel, options: StreamOptions, frames: Sequence[Tensor]
) -> dict[str, Any]:
    """Bookkeeping `o` and kernel efficiency `eta` over a clip; each absent where it has no value.

    Args:
        model, dense: ours, and the same network with every frame a keyframe.
        options: keyframes come by its period alone, however busy the clip.
        frames: float32 [1, 3, H, W], in order.
    """
    executor, other = model.executor(frames[0]), dense.executor(frames[0])
    if not isinstance(executor, NativeExecutor):
        return {}
    layers: dict[str, Convolution] = {}

    def note(op: LinearOp, x: Tensor) -> Tensor:
        shape = Convolution.of(op, x)
        if shape is not None:
            layers[op.name] = shape
        return op.apply(x, op.weight, op.bias)

    products, bookkeeping, dense_seconds = Products(layers), [], []
    reference, state = options.reference, StreamState()
    with one_thread(), torch.no_grad():
        GraphCache(model.module).graph(frames[:1]).run(frames[:1], note)
        other.anchor(frames[:1], StreamState(), None, False, False)
        for index, frame in enumerate(frames):
            if index % options.period == 0:
                for _ in range(_DENSE):
                    start = time.perf_counter()
                    other.anchor((frame,), StreamState(), None, False, False)
                    dense_seconds.append(time.perf_counter() - start)
                executor.anchor((frame,), state, reference, False, False)
                continue
            start = time.perf_counter()
            run, times = executor.timed_residual((frame,), state, reference, options.policy)
            spent = time.perf_counter() - start
            bookkeeping.append(spent - sum(step.product_seconds for step in times))
            products.add(run.layers, times)
        found: dict[str, Any] = {}
        if bookkeeping:
            found["o"] = mean(bookkeeping) / median(dense_seconds)
        if torch.backends.mkldnn.is_available():
            eta = products.efficiency(onednn_rate)
            if eta is not None:
                found["eta"] = eta
    return found


def onednn_rate(shape: Convolution) -> float:
    """MAC/s of oneDNN's dense convolution on this thread: u8 in and out, s8 weights by channel.

    torch's dispatch of the call is in it, microseconds that tell on the smallest shapes.
    """
    channels = shape.weight[0]
    x = torch.randint(0, 256, shape.input, dtype=torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randint(-127, 128, shape.weight, dtype=torch.int8)
    scales, zeros = torch.ones(channels), torch.zeros(channels, dtype=torch.int32)
    geometry = shape.stride, shape.padding, shape.dilation, shape.groups
    ops = torch.ops.onednn
    packed = ops.qconv_prepack(weight, scales, 1.0, 128, *geometry, shape.input)
    out_scale = float(shape.macs_per_pixel)  # keeps the results within u8
    output = (out_scale, 128, torch.uint8)
    seconds = []
    for _ in range(_WARM_UP + _TIMED):
        start = time.perf_counter()
        y = ops.qconv2d_pointwise(
            x, 1.0, 128, packed, scales, zeros, None, *geometry, *output, "none", [], None
        )
        seconds.append(time.perf_counter() - start)
    pixels = y.numel() // channels
    return float(pixels * shape.macs_per_pixel / median(seconds[_WARM_UP:]))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and for native frames within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
