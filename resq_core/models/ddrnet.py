"""DDRNet (Hong et al., 2021): two branches that keep exchanging features.

A deep branch goes down to 1/64 of the input, a detail branch stays at 1/8. Module names and
their order are those of the published checkpoints, which explains names such as `layer3_`
(the detail branch's stage beside `layer3`) and `compression3_1`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resq_core.errors import OptionError
from resq_core.models.layers import (
    BasicBlock,
    check_count,
    conv,
    conv_norm,
    initialise,
    resize_like,
)

__all__ = ["DDRNet", "ddrnet23", "ddrnet23_slim", "ddrnet39"]

_MAX_CLASSES = 10_000


@dataclass(frozen=True)
class _Plan:
    """Widths and depths of one member of the family.

    `exchange` lists the stages after which the branches exchange features: the suffix of the
    stage's module names, its number of blocks in the deep and in the detail branch, its stride.
    """

    width: int
    head_width: int
    stem_blocks: tuple[int, int]
    exchange: tuple[tuple[str, int, int, int], ...]


_SLIM_23 = _Plan(32, 64, (2, 2), (("3", 2, 2, 2), ("4", 2, 2, 2)))
_BASE_23 = _Plan(64, 128, (2, 2), (("3", 2, 2, 2), ("4", 2, 2, 2)))
_BASE_39 = _Plan(64, 256, (3, 4), (("3_1", 3, 3, 2), ("3_2", 3, 3, 1), ("4", 3, 3, 2)))
_SPP_WIDTH = 128


def _norm_relu_conv(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(inputs), nn.ReLU(), conv(inputs, outputs, size)]


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut, doubling the width; its sum stays signed."""

    def __init__(self, inputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, inputs, 1)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = conv(inputs, inputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(inputs)
        self.conv3 = conv(inputs, 2 * inputs, 1)
        self.bn3 = nn.BatchNorm2d(2 * inputs)
        self.downsample = nn.Sequential(*conv_norm(inputs, 2 * inputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        total: Tensor = y + self.downsample(x)
        return total


class _PyramidPooling(nn.Module):
    """DAPPM: the input pooled at four scales, each refined on top of the finer one.

    Every pool is padded by half its window, so it accepts inputs down to 1x1.
    """

    def __init__(self, inputs: int, branch: int, outputs: int) -> None:
        super().__init__()
        pools: list[nn.Module] = [
            nn.AvgPool2d(5, 2, 2),
            nn.AvgPool2d(9, 4, 4),
            nn.AvgPool2d(17, 8, 8),
            nn.AdaptiveAvgPool2d(1),
        ]
        for i, pool in enumerate(pools, 1):
            self.add_module(f"scale{i}", nn.Sequential(pool, *_norm_relu_conv(inputs, branch, 1)))
        self.scale0 = nn.Sequential(*_norm_relu_conv(inputs, branch, 1))
        for i in range(1, 5):
            self.add_module(f"process{i}", nn.Sequential(*_norm_relu_conv(branch, branch, 3)))
        self.compression = nn.Sequential(*_norm_relu_conv(5 * branch, outputs, 1))
        self.shortcut = nn.Sequential(*_norm_relu_conv(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        scales = [self.scale0(x)]
        for i in range(1, 5):
            pooled = resize_like(self.get_submodule(f"scale{i}")(x), x)
            scales.append(self.get_submodule(f"process{i}")(pooled + scales[-1]))
        total: Tensor = self.compression(torch.cat(scales, 1)) + self.shortcut(x)
        return total


class _Head(nn.Module):
    """Features to class logits at the same resolution, or `upsample` times as fine.

    Finer logits come from a transposed convolution whose kernel is its stride: a 1x1 convolution
    for every place within a coarse pixel (sub-pixel convolution, Shi et al., CVPR 2016).
    """

    def __init__(self, inputs: int, width: int, num_classes: int, upsample: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2: nn.Module
        if upsample == 1:
            self.conv2 = conv(width, num_classes, 1, bias=True)
        else:
            self.conv2 = nn.ConvTranspose2d(width, num_classes, upsample, upsample)

    def refine(self, upsample: int) -> None:
        """Turn a 1x1 convolution into a transposed one that repeats each of its logits."""
        coarse = self.conv2
        assert isinstance(coarse, nn.Conv2d)
        assert coarse.bias is not None
        classes, width = coarse.weight.shape[:2]
        finer = nn.ConvTranspose2d(width, classes, upsample, upsample)
        assert finer.bias is not None
        with torch.no_grad():
            finer.weight.copy_(coarse.weight.transpose(0, 1).expand_as(finer.weight))
            finer.bias.copy_(coarse.bias)
        self.conv2 = finer

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Residual blocks, the last of which leaves its sum signed."""
    first = BasicBlock(inputs, outputs, stride, final_relu=blocks > 1)
    rest = [BasicBlock(outputs, outputs, final_relu=i < blocks - 1) for i in range(1, blocks)]
    return nn.Sequential(first, *rest)


class DDRNet(nn.Module):
    """Input float32 [N, 3, H, W], any H and W from 1; logits [N, num_classes, h, w].

    h = upsample * ceil(H / 8) and w = upsample * ceil(W / 8), each rounding up at every stride.
    With the auxiliary head, `forward` returns (logits, auxiliary logits), the latter 1/8 of the
    input whatever `upsample` is.
    """

    def __init__(self, plan: _Plan, num_classes: int, aux_head: bool, upsample: int) -> None:
        super().__init__()
        width, detail = plan.width, 2 * plan.width
        self.upsample = upsample
        self.conv1 = nn.Sequential(
            conv(3, width, 3, 2, bias=True),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            conv(width, width, 3, 2, bias=True),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.layer1 = _stage(width, width, plan.stem_blocks[0], 1)
        self.layer2 = _stage(width, detail, plan.stem_blocks[1], 2)
        self.stages = tuple(name for name, *_ in plan.exchange)
        self._add_exchange(plan, detail)
        self.layer5_ = nn.Sequential(_Bottleneck(detail, 1))
        self.layer5 = nn.Sequential(_Bottleneck(8 * width, 2))
        self.spp = _PyramidPooling(16 * width, _SPP_WIDTH, 4 * width)
        self.seghead_extra = _Head(detail, plan.head_width, num_classes) if aux_head else None
        self.final_layer = _Head(4 * width, plan.head_width, num_classes, upsample)

    def refine(self, upsample: int) -> None:
        """Make the logits 2 or 4 times as fine, in place; at first each is that of its coarse one.

        Does nothing where they are so. Raises OptionError for another number, and where they are
        finer already, but not as asked.
        """
        _check_upsample(upsample)
        if upsample == self.upsample:
            return
        if self.upsample != 1:
            raise OptionError(f"upsample is {upsample}; this DDRNet has {self.upsample} already")
        self.final_layer.refine(upsample)
        self.upsample = upsample

    def _add_exchange(self, plan: _Plan, detail: int) -> None:
        """The stages of both branches and what carries features between them."""
        widths = [detail]
        for name, deep_blocks, _, stride in plan.exchange:
            widths.append(widths[-1] * stride)
            stage = _stage(widths[-2], widths[-1], deep_blocks, stride)
            self.add_module(f"layer{name}", stage)
        for name, deep in zip(self.stages, widths[1:], strict=True):
            up = nn.Sequential(*conv_norm(deep, detail, 1))
            self.add_module(f"compression{name}", up)
        for name, deep in zip(self.stages, widths[1:], strict=True):
            self.add_module(f"down{name}", _descent(detail, deep))
        for name, _, detail_blocks, _ in plan.exchange:
            self.add_module(f"layer{name}_", _stage(detail, detail, detail_blocks, 1))

    def _exchange(self, name: str, deep: Tensor, detail: Tensor) -> tuple[Tensor, Tensor]:
        deep = self.get_submodule(f"layer{name}")(F.relu(deep))
        detail = self.get_submodule(f"layer{name}_")(F.relu(detail))
        down = self.get_submodule(f"down{name}")(F.relu(detail))
        up = self.get_submodule(f"compression{name}")(F.relu(deep))
        return deep + down, detail + resize_like(up, detail)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        deep = self.layer2(F.relu(self.layer1(self.conv1(x))))
        detail = shared = deep
        for name in self.stages:
            shared = detail  # what the auxiliary head sees: the detail before the last exchange
            deep, detail = self._exchange(name, deep, detail)
        detail = self.layer5_(F.relu(detail))
        context = self.spp(self.layer5(F.relu(deep)))
        logits: Tensor = self.final_layer(resize_like(context, detail) + detail)
        if self.seghead_extra is None:
            return logits
        return logits, self.seghead_extra(shared)


def _descent(inputs: int, outputs: int) -> nn.Sequential:
    """Stride-2 convolutions, doubling the width each, with ReLU between."""
    layers: list[nn.Module] = []
    width = inputs
    while width < outputs:
        layers += [nn.ReLU()] if layers else []
        layers += conv_norm(width, 2 * width, 3, 2)
        width *= 2
    return nn.Sequential(*layers)


def _check_upsample(upsample: object) -> None:
    if upsample not in (1, 2, 4) or isinstance(upsample, bool):
        raise OptionError(f"upsample is {upsample!r}; it must be 1, 2 or 4")


def _build(plan: _Plan, num_classes: int, aux_head: bool, upsample: int) -> DDRNet:
    check_count("num_classes", num_classes, _MAX_CLASSES)
    if not isinstance(aux_head, bool):
        raise OptionError(f"aux_head is {aux_head!r}; it must be True or False")
    _check_upsample(upsample)
    net = DDRNet(plan, num_classes, aux_head, upsample)
    initialise(net)
    return net


def ddrnet23_slim(num_classes: int = 19, aux_head: bool = False, upsample: int = 1) -> DDRNet:
    """DDRNet-23-slim: 5.7 M parameters, 36.3 G multiply-adds at 1024x2048."""
    return _build(_SLIM_23, num_classes, aux_head, upsample)


def ddrnet23(num_classes: int = 19, aux_head: bool = False, upsample: int = 1) -> DDRNet:
    """DDRNet-23: twice the width of the slim one."""
    return _build(_BASE_23, num_classes, aux_head, upsample)


def ddrnet39(num_classes: int = 19, aux_head: bool = False, upsample: int = 1) -> DDRNet:
    """DDRNet-39: 32.4 M parameters, 281 G multiply-adds at 1024x2048."""
    return _build(_BASE_39, num_classes, aux_head, upsample)
