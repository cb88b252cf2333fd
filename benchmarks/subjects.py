"""The networks that runtimes are compared on: weights, inputs, and how outputs are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks import clips
from resq_core import models, quantize, zoo
from resq_core.errors import OptionError
from resq_core.evaluation import ConfusionMatrix
from resq_core.model import QuantizedModel
from resq_core.tasks import COCO17, PoseTask, SegmentationTask

__all__ = ["PRECISION", "Subject", "batch_norm_folded", "size_of"]

PRECISION = "W8A8->W8A{0,4,8}"

_SCENE = (360, 480)  # what is drawn for a pose network to crop from
_NEAR = 0.05  # of the box's side: how far a joint may move and still agree
_SETTLING = 8  # frames that batch norms without training take their statistics from
_CALIBRATION = 16  # frames of each clip
_SAMPLES = 12  # pairs of frames; c of Eq. 8


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of `HxW`. Raises ValueError."""
    height, width = text.split("x")
    return int(height), int(width)


@dataclass(frozen=True)
class Subject:
    """A network at an input size.

    name: a trained model of the zoo, else one of `models.names()` with seeded random weights,
    whose batch norms take their statistics from a drawn street. size: (height, width) of its
    input.

    Raises OptionError for a network whose input is not one picture.
    """

    name: str
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.name == "stm" or (self._is_ready and zoo.card(self.name).task == "vos"):
            raise OptionError(
                f"{self.name} takes masks and a memory; expected a network of one picture"
            )

    @property
    def _is_ready(self) -> bool:
        return self.name in zoo.names()

    @property
    def knows_labels(self) -> bool:
        """It was trained on the classes that clips are labelled with."""
        return self.name == "street"

    @property
    def is_pose(self) -> bool:
        """Its outputs are heatmaps of joints; else they are logits of classes."""
        return self.name.endswith("_pose") or (
            self._is_ready and zoo.card(self.name).task == "pose"
        )

    def clip(self, name: str, frames: int) -> clips.Clip:
        """A clip at the size this network is drawn at. Raises as `clips.load` does."""
        return clips.load(name, _SCENE if self.is_pose else self.size, frames)

    def inputs(self, clip: clips.Clip) -> Tensor:
        """A clip as float32 [N, 3, H, W]; for pose one fixed crop, around what moves in it."""
        card = zoo.card("street")
        if self.is_pose:
            pose = PoseTask(COCO17, self.size, card.mean, card.std)  # any joints: it only crops
            crop = pose.crop_of(clips.moving_box(clip.pictures))
            return torch.cat([pose.preprocess(picture, crop) for picture in clip.pictures])
        task = SegmentationTask(card.classes, card.palette, self.size, card.mean, card.std)
        return torch.cat([task.preprocess(picture) for picture in clip.pictures])

    def network(self) -> nn.Module:
        """The float network in eval mode."""
        if self._is_ready:
            return zoo.load(self.name).module
        torch.manual_seed(0)
        network = models.build(self.name)
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the mean over all batches
        frames = self.inputs(self.clip("street-moving", _SETTLING))
        with torch.no_grad():
            for batch in frames.split(4):
                network.train()(batch)
        return network.eval().requires_grad_(False)

    def quantized(self, network: nn.Module, frames: Tensor, period: int) -> QuantizedModel:
        """Ours: as the zoo calibrated it, else calibrated on these frames and a moving street."""
        if self._is_ready:
            return zoo.load(self.name)
        moving = self.inputs(self.clip("street-moving", _CALIBRATION))
        model = quantize(network, PRECISION, period=period, example=frames[:1])
        model.calibrate([frames[:_CALIBRATION], moving], samples=_SAMPLES)
        return model

    def answers(self, outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
        """What is compared, per frame: class ids [N, H, W], or the cells [N, K, 2] of maxima."""
        return np.stack([self._answer(output) for output in outputs])

    def _answer(self, output: NDArray[np.float32]) -> NDArray[np.int64]:
        if self.is_pose:
            best = output[0].reshape(output.shape[1], -1).argmax(1)
            return np.stack(np.unravel_index(best, output.shape[2:]), 1)
        logits = F.interpolate(torch.from_numpy(output), self.size, mode="bilinear")
        return logits[0].max(0).indices.numpy()

    def agreement(
        self,
        ours: NDArray[np.int64],
        theirs: NDArray[np.int64],
        cells: tuple[int, ...],
    ) -> float:
        """0 to 1: the share of pixels of one class; or of joints that lie near each other.

        Near is within a twentieth of the longer side of the heatmaps, whose shape `cells` ends in.
        """
        if self.is_pose:
            apart = np.linalg.norm((ours - theirs).astype(np.float64), axis=-1)
            return float((apart <= _NEAR * max(cells[-2:])).mean())
        return float((ours == theirs).mean())

    def miou(
        self, outputs: Sequence[NDArray[np.float32]], labels: Sequence[clips.Picture]
    ) -> float:
        """Mean intersection over union, 0 to 1, at the labels' size."""
        card = zoo.card("street")
        task = card.segmentation()
        matrix = ConfusionMatrix(len(card.classes), card.ignore_index)
        for output, label in zip(outputs, labels, strict=True):
            height, width = label.shape
            matrix.update(task.postprocess(torch.from_numpy(output), (height, width)), label)
        return matrix.miou()


def batch_norm_folded(network: nn.Module, example: Tensor) -> nn.Module:
    """The network, changed in place: batch norms that follow a convolution are folded into it."""
    made: dict[int, tuple[str, Tensor]] = {}  # tensors are kept, so that no id is used twice
    pairs: list[tuple[str, str]] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        if isinstance(module, nn.Conv2d):
            return module.register_forward_hook(
                lambda _, __, output: made.__setitem__(id(output), (name, output))
            )

        def follows(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][0], name))

        return module.register_forward_pre_hook(follows)

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [watch(n, m) for n, m in network.named_modules() if isinstance(m, kinds)]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        folded = fuse_conv_bn_eval(network.get_submodule(conv), network.get_submodule(norm))
        network.set_submodule(conv, folded)
        network.set_submodule(norm, nn.Identity())
    return network
