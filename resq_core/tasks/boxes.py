"""Where a person is, the part of the picture around it, and that part as pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_core.errors import OptionError
from resq_core.tasks.pictures import Picture, Size

__all__ = ["Box", "Crop", "cut_out"]

Points = NDArray[np.floating[Any]]

_FARTHEST = 1e6  # pixels from the picture's corner; keeps all arithmetic far from overflow
_SMALLEST = 0.01
_ROOM = 1.25  # a crop is larger than its box by this factor


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in image pixels; checked when made.

    Attributes:
        x, y: the upper left corner, within ±1,000,000.
        width, height: from 0.01 to 1,000,000.

    Raises:
        OptionError: a value is not finite or out of its range.
    """

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        near = all(abs(value) <= _FARTHEST for value in (self.x, self.y))  # false for NaN
        if not near or not all(_SMALLEST <= s <= _FARTHEST for s in (self.width, self.height)):
            raise OptionError(
                f"the box is {self}; expected x and y within ±{_FARTHEST:.0f} pixels, width and "
                f"height from {_SMALLEST} to {_FARTHEST:.0f}"
            )

    def __str__(self) -> str:
        return f"{self.width:g}x{self.height:g} at ({self.x:g}, {self.y:g})"

    @classmethod
    def whole(cls, image_size: Size) -> Box:
        """The box of a whole picture of (height, width)."""
        height, width = image_size
        return cls(0.0, 0.0, float(width), float(height))

    def overlaps(self, image_size: Size) -> bool:
        """Whether any of it is inside a picture of (height, width)."""
        height, width = image_size
        across = self.x < width and self.x + self.width > 0
        return across and self.y < height and self.y + self.height > 0

    def resized(self, before: Size, after: Size) -> Box:
        """The same part of a picture that went from one (height, width) to another."""
        down, across = after[0] / before[0], after[1] / before[1]

        def within(value: float, low: float) -> float:
            return min(max(value, low), _FARTHEST)

        return Box(
            within(self.x * across, -_FARTHEST),
            within(self.y * down, -_FARTHEST),
            within(self.width * across, _SMALLEST),
            within(self.height * down, _SMALLEST),
        )


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of a picture that fills a network's input. Equal where that part is equal.

    A point of a grid of (h, w) samples over the crop, input pixels or heatmap cells, is the image
    point centre + (p − (w/2, h/2)) · width/w, with whole coordinates at sample centres. That is
    the convention of the official HRNet code: half a sample is not added on either side.

    Attributes:
        x, y: its centre in image pixels.
        width, height: in image pixels; their ratio is the network input's.
        box: what it was made from.
    """

    x: float
    y: float
    width: float
    height: float
    box: Box = field(compare=False)

    @classmethod
    def around(cls, box: Box, input_size: Size) -> Crop:
        """The official rule: the box's centre, grown to the input's shape, then 1.25 times that.

        input_size: (height, width) of the network's input.
        """
        ratio = input_size[1] / input_size[0]
        width = max(box.width, box.height * ratio)
        centre = (box.x + box.width / 2, box.y + box.height / 2)
        return cls(*centre, _ROOM * width, _ROOM * width / ratio, box)

    def to_image(self, points: Points, grid: Size) -> NDArray[np.float64]:
        """Points [..., 2] (x, y) of a grid of (h, w) samples over the crop, in image pixels."""
        middle, step = self._grid(grid)
        return (np.asarray(points, np.float64) - middle) * step + (self.x, self.y)

    def from_image(self, points: Points, grid: Size) -> NDArray[np.float64]:
        """Image points [..., 2] (x, y) in samples of a grid of (h, w) over the crop."""
        middle, step = self._grid(grid)
        return (np.asarray(points, np.float64) - (self.x, self.y)) / step + middle

    def _grid(self, grid: Size) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        height, width = grid
        middle = np.array([width / 2, height / 2])
        return middle, np.array([self.width / width, self.height / height])


def cut_out(image: Picture, crop: Crop, size: Size) -> Picture:
    """A crop of a picture uint8 [H, W, 3] at (h, w) pixels: uint8 [h, w, 3].

    Bilinear between the four pixels around each sample, black outside the picture, rounded to
    whole levels; shrinking does not average. OpenCV 5's `warpAffine` computes the same (older
    ones round sample positions to 1/32 pixel first).
    """
    corners = crop.to_image(np.array([(0, 0), (size[1] - 1, size[0] - 1)]), size)
    columns = _neighbours(corners[:, 0], size[1], image.shape[1])
    rows = _neighbours(corners[:, 1], size[0], image.shape[0])
    levels = np.zeros((*size, 3), np.float32)
    for row, row_weight in rows:
        for column, column_weight in columns:
            weight = (row_weight[:, None] * column_weight)[..., None]
            levels += image[row[:, None], column] * weight
    rounded: Picture = np.minimum(levels + np.float32(0.5), np.float32(255)).astype(np.uint8)
    return rounded


def _neighbours(
    ends: NDArray[np.float64], samples: int, pixels: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The two pixels beside each sample along one axis, and the weight of each."""
    positions = np.linspace(ends[0], ends[1], samples)
    below = np.floor(positions)
    share = positions - below
    found = []
    for index, weight in ((below, 1 - share), (below + 1, share)):
        inside = (index >= 0) & (index < pixels)
        nearest = np.clip(index, 0, pixels - 1).astype(np.int64)
        found.append((nearest, np.where(inside, weight, 0).astype(np.float32)))
    return found
