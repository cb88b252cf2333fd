"""HRNet (Sun et al., 2019): branches of several resolutions side by side, fused again and again.

One family: a plan gives the depths, the widths, the kind of block and the way to resize, and the
head is either pose or segmentation. Module names and their order are those of the published
checkpoints: stage 1 is called `layer1`, and `stage2` is the first with two branches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resq_core.models.layers import (
    BasicBlock,
    Bottleneck,
    check_count,
    conv,
    conv_norm,
    conv_norm_relu,
    initialise,
    resize_like,
)

__all__ = [
    "HRNet",
    "HRNetPlan",
    "PoseHRNet",
    "SegmentationHRNet",
    "hrnet_w16_pose",
    "hrnet_w18",
    "hrnet_w18_small",
    "hrnet_w18_small_v1",
    "hrnet_w32_pose",
    "hrnet_w48",
    "hrnet_w48_pose",
]

_MAX_JOINTS = 1_000
_MAX_CLASSES = 10_000
_STEM = 64


@dataclass(frozen=True)
class HRNetPlan:
    """One member of the family.

    Attributes:
        width: channels of the finest branch's blocks; each coarser branch doubles them.
        stages: (exchange units, blocks per branch in each) of `stage2`, `stage3`, …; every stage
            has one branch more than the one before.
        stem_width, stem_blocks: width and number of the bottlenecks of `layer1`.
        block: what branches are made of; bottlenecks put out 4 × their width.
        upsampling: how a coarse branch is resized when it is added to a finer one.
    """

    width: int
    stages: tuple[tuple[int, int], ...]
    stem_width: int = 64
    stem_blocks: int = 4
    block: Literal["basic", "bottleneck"] = "basic"
    upsampling: Literal["nearest", "bilinear"] = "bilinear"

    def channels(self, branches: int) -> tuple[int, ...]:
        """Channels of the first so many branches, finest first."""
        expansion = Bottleneck.expansion if self.block == "bottleneck" else 1
        return tuple(self.width * expansion << i for i in range(branches))


def _branch(plan: HRNetPlan, channels: int, blocks: int) -> nn.Sequential:
    if plan.block == "basic":
        return nn.Sequential(*(BasicBlock(channels, channels) for _ in range(blocks)))
    width = channels // Bottleneck.expansion
    return nn.Sequential(*(Bottleneck(channels, width) for _ in range(blocks)))


def _path(channels: Sequence[int], source: int, target: int) -> nn.Module:
    """What carries branch `source` to the channels of branch `target`, and down to its size."""
    inputs, outputs = channels[source], channels[target]
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(*conv_norm(inputs, outputs, 1))
    steps = [nn.Sequential(*conv_norm_relu(inputs, inputs, 3, 2)) for _ in range(source, target)]
    steps[-1] = nn.Sequential(*conv_norm(inputs, outputs, 3, 2))
    return nn.Sequential(*steps)


class _ExchangeUnit(nn.Module):
    """Blocks on every branch, then each output branch is the sum of all branches.

    Input: one tensor per branch, finest first. Output: the `outputs` finest branches.
    """

    def __init__(self, plan: HRNetPlan, branches: int, blocks: int, outputs: int) -> None:
        super().__init__()
        channels = plan.channels(branches)
        self.branches = nn.ModuleList(_branch(plan, c, blocks) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(channels, source, target) for source in range(branches))
            for target in range(outputs)
        )
        self.upsampling = plan.upsampling

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        refined = [branch(part) for branch, part in zip(self.branches, x, strict=True)]
        return [
            self._fused(paths.children(), refined, like)
            for paths, like in zip(self.fuse_layers, refined, strict=False)
        ]

    def _fused(self, paths: Iterator[nn.Module], parts: list[Tensor], like: Tensor) -> Tensor:
        """ReLU of the sum of all parts, each brought to the shape of `like`."""
        total: Tensor | None = None
        for path, part in zip(paths, parts, strict=True):
            y = path(part)
            if y.shape[-2:] != like.shape[-2:]:
                y = resize_like(y, like, self.upsampling)
            total = y if total is None else total + y
        assert total is not None
        return F.relu(total)


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """From the branches of one stage to those of the next, which has one more."""
    kept: list[nn.Module] = [
        nn.Identity() if old == new else nn.Sequential(*conv_norm_relu(old, new, 3))
        for old, new in zip(before, after, strict=False)
    ]
    added = nn.Sequential(nn.Sequential(*conv_norm_relu(before[-1], after[-1], 3, 2)))
    return nn.ModuleList([*kept, added])


class HRNet(nn.Module):
    """Stem and branches, which every head shares. Input: float32 [N, 3, H, W], H and W from 1."""

    def __init__(self, plan: HRNetPlan, outputs: int) -> None:
        super().__init__()
        self.conv1 = conv(3, _STEM, 3, 2)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.conv2 = conv(_STEM, _STEM, 3, 2)
        self.bn2 = nn.BatchNorm2d(_STEM)
        channels: tuple[int, ...] = (Bottleneck.expansion * plan.stem_width,)
        self.layer1 = nn.Sequential(
            Bottleneck(_STEM, plan.stem_width),
            *(Bottleneck(channels[0], plan.stem_width) for _ in range(1, plan.stem_blocks)),
        )
        self.stages = len(plan.stages)
        for i, (units, blocks) in enumerate(plan.stages, 1):
            before, channels = channels, plan.channels(i + 1)
            kept = [i + 1] * units
            if i == self.stages:
                kept[-1] = outputs
            self.add_module(f"transition{i}", _transition(before, channels))
            stage = nn.Sequential(*(_ExchangeUnit(plan, i + 1, blocks, k) for k in kept))
            self.add_module(f"stage{i + 1}", stage)

    def features(self, x: Tensor) -> list[Tensor]:
        """The `outputs` finest branches, finest first.

        Branch b is [N, channels[b], h, w] at 1 / (4 · 2^b) of the input, each stride rounding up.
        """
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        branches = [self.layer1(x)]
        for i in range(1, self.stages + 1):
            sources = [*branches, branches[-1]]
            steps = self.get_submodule(f"transition{i}").children()
            moved = [step(source) for step, source in zip(steps, sources, strict=True)]
            branches = self.get_submodule(f"stage{i + 1}")(moved)
        return branches


class PoseHRNet(HRNet):
    """Joint heatmaps [N, num_joints, ceil(H / 4), ceil(W / 4)], no activation.

    The official code takes sizes whose quarter is a multiple of 8; here others are resized to
    the finer branch.
    """

    def __init__(self, plan: HRNetPlan, num_joints: int) -> None:
        super().__init__(plan, outputs=1)
        self.final_layer = conv(plan.channels(1)[0], num_joints, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        heatmaps: Tensor = self.final_layer(self.features(x)[0])
        return heatmaps


class SegmentationHRNet(HRNet):
    """Class logits [N, num_classes, ceil(H / 4), ceil(W / 4)] from all branches together."""

    def __init__(self, plan: HRNetPlan, num_classes: int) -> None:
        branches = len(plan.stages) + 1
        super().__init__(plan, outputs=branches)
        total = sum(plan.channels(branches))
        self.last_layer = nn.Sequential(
            conv(total, total, 1, bias=True),
            nn.BatchNorm2d(total),
            nn.ReLU(),
            conv(total, num_classes, 1, bias=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        finest, *coarser = self.features(x)
        resized = [resize_like(branch, finest) for branch in coarser]
        logits: Tensor = self.last_layer(torch.cat([finest, *resized], 1))
        return logits


_DEEP = ((1, 4), (4, 4), (3, 4))
_SMALL_V1 = HRNetPlan(16, ((1, 2), (1, 2), (1, 2)), stem_width=32, stem_blocks=1)
_SMALL_V2 = HRNetPlan(18, ((1, 2), (3, 2), (2, 2)), stem_blocks=2)
_NARROW = HRNetPlan(16, _SMALL_V2.stages, stem_blocks=2, upsampling="nearest")


def _pose(plan: HRNetPlan, num_joints: int) -> PoseHRNet:
    check_count("num_joints", num_joints, _MAX_JOINTS)
    net = PoseHRNet(plan, num_joints)
    initialise(net)
    return net


def _segmentation(plan: HRNetPlan, num_classes: int) -> SegmentationHRNet:
    check_count("num_classes", num_classes, _MAX_CLASSES)
    net = SegmentationHRNet(plan, num_classes)
    initialise(net)
    return net


def hrnet_w16_pose(num_joints: int = 17) -> PoseHRNet:
    """A narrow HRNet for pose, of this project: HRNetV2-W18-Small-v2's depth, 16 channels wide."""
    return _pose(_NARROW, num_joints)


def hrnet_w32_pose(num_joints: int = 17) -> PoseHRNet:
    """HRNet-w32 for pose: 28.5 M parameters, 10.2 G multiply-adds at 256x256."""
    return _pose(HRNetPlan(32, _DEEP, upsampling="nearest"), num_joints)


def hrnet_w48_pose(num_joints: int = 17) -> PoseHRNet:
    """HRNet-w48 for pose."""
    return _pose(HRNetPlan(48, _DEEP, upsampling="nearest"), num_joints)


def hrnet_w18(num_classes: int = 19) -> SegmentationHRNet:
    """HRNetV2-W18 for segmentation."""
    return _segmentation(HRNetPlan(18, _DEEP), num_classes)


def hrnet_w48(num_classes: int = 19) -> SegmentationHRNet:
    """HRNetV2-W48 for segmentation."""
    return _segmentation(HRNetPlan(48, _DEEP), num_classes)


def hrnet_w18_small(num_classes: int = 19) -> SegmentationHRNet:
    """HRNetV2-W18-Small-v2: 3.9 M parameters, 76.9 G multiply-adds at 1024x2048."""
    return _segmentation(_SMALL_V2, num_classes)


def hrnet_w18_small_v1(num_classes: int = 19) -> SegmentationHRNet:
    """HRNetV2-W18-Small-v1: 1.5 M parameters, 33.4 G multiply-adds at 1024x2048."""
    return _segmentation(_SMALL_V1, num_classes)
