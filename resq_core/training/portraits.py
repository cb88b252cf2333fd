"""Batches for pose: drawn people in front of pictures, and heatmaps of their joints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resq_core.errors import InputError
from resq_core.tasks.boxes import Box, Crop
from resq_core.tasks.pictures import Picture
from resq_core.tasks.pose import PoseTask
from resq_core.training.sequences import Batch, recoloured

__all__ = ["Drawn", "PortraitSource", "heatmaps_of"]

_SIGMA = 2.0  # cells of the heatmap
_SIZES = (96, 256)  # pixels; the smaller ones come to the network blurred
_PADDING = 0.1  # of a person's longer side
_ENLARGED = (0.75, 1.35)  # of the box, as a detector's might be
_SHIFTED = 0.1  # of the box
_JITTER = 0.3  # of light and colour, see `StillSource`


class Drawn(Protocol):
    """A picture uint8 [H, W, 3] RGB of somebody, and joints float32 [K, 2], column and row."""

    @property
    def image(self) -> Picture: ...

    @property
    def joints(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class PortraitSource:
    """People that no picture shows twice.

    Attributes:
        backgrounds: pictures uint8 [H, W, 3] RGB, of anything.
        paint: puts somebody before one, in a square of so many pixels; `resq_core.world.portrait`.
        task: the network's input, and its joints, in the order of those that are painted.

    Raises:
        InputError: there is no picture.
    """

    backgrounds: Sequence[Picture]
    paint: Callable[[Picture, int, np.random.Generator], Drawn]
    task: PoseTask

    def __post_init__(self) -> None:
        if not self.backgrounds:
            raise InputError("0 pictures given; expected one at least to stand people before")

    def draw(self, generator: torch.Generator) -> tuple[Drawn, Crop]:
        """Somebody, and the part of the picture that a network is to see."""
        seed = int(torch.randint(1 << 62, (), generator=generator))
        rng = np.random.default_rng(seed)
        background = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        found = self.paint(background, int(rng.integers(*_SIZES)), rng)
        return found, self.task.crop_of(_box(found.joints, rng))

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Inputs [size, 3, h, w] of one frame, and as its labels what `heatmaps_of` makes."""
        inputs, labels = [], []
        for _ in range(size):
            found, crop = self.draw(generator)
            x = self.task.preprocess(found.image, crop)
            inputs.append(recoloured(x, _JITTER, generator))
            labels.append(heatmaps_of(found.joints, crop, self.task.heatmap_size))
        return Batch([torch.cat(inputs)], [torch.stack(labels)])


def heatmaps_of(joints: NDArray[np.float32], crop: Crop, size: tuple[int, int]) -> Tensor:
    """What a network should answer: float32 [K, h, w], a Gaussian of height 1 at each joint.

    Args:
        joints: [K, 2], column and row in image pixels.
        crop: the part of the picture that the network sees.
        size: (h, w) of the heatmaps.

    Returns:
        NaN all over the map of a joint outside the crop, which does not count.
    """
    height, width = size
    cells = torch.from_numpy(crop.from_image(joints, size)).float()
    across = torch.arange(width) - cells[:, :1]
    down = torch.arange(height) - cells[:, 1:]
    maps = torch.exp(-(across.square()[:, None] + down.square()[:, :, None]) / (2 * _SIGMA**2))
    inside = ((cells >= 0) & (cells <= torch.tensor([width - 1, height - 1]))).all(1)
    maps[~inside] = torch.nan
    return maps


def _box(joints: NDArray[np.float32], rng: np.random.Generator) -> Box:
    """About where the joints are, as a detector or an earlier frame might say."""
    low, high = joints.min(0).astype(np.float64), joints.max(0).astype(np.float64)
    side = float((high - low).max())
    middle = (low + high) / 2 + side * rng.uniform(-_SHIFTED, _SHIFTED, 2)
    width, height = (high - low + 2 * _PADDING * side) * rng.uniform(*_ENLARGED)
    return Box(middle[0] - width / 2, middle[1] - height / 2, float(width), float(height))
