"""A picture at several sizes, so that what is far away does not glitter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVELS", "Mipmap"]

LEVELS = 6
Indices = NDArray[np.int32]


class Mipmap:
    """A picture at full size and at 1/2, 1/4, ... of it. Immutable.

    Args:
        picture: float32 [R, C, 3], 0 to 255; R and C are multiples of 32.
    """

    def __init__(self, picture: NDArray[np.float32]) -> None:
        self.rows, self.columns = picture.shape[:2]
        levels, offsets = [], [0]
        for level in range(LEVELS):
            if level:
                halves = (picture.shape[0] // 2, 2, picture.shape[1] // 2, 2, 3)
                picture = picture.reshape(halves).mean((1, 3))
            rows, columns = picture.shape[:2]
            packed = np.zeros((rows, columns, 4), np.uint8)
            packed[..., :3] = np.clip(picture, 0, 255)
            levels.append(packed.view(np.uint32).ravel())
            offsets.append(offsets[-1] + rows * columns)
        self._pixels = np.concatenate(levels)
        self._offsets = np.array(offsets[:-1], np.int32)

    def look_up(self, level: Indices, rows: Indices, columns: Indices) -> NDArray[np.uint8]:
        """Pixels uint8 [..., 4], RGB and a zero, at full-size places held inside the picture.

        level: 0 (full size) to 5. All arguments broadcast.
        """
        rows = np.clip(rows, 0, self.rows - 1) >> level
        columns = np.clip(columns, 0, self.columns - 1) >> level
        strides = np.int32(self.columns) >> level
        found = self._pixels[self._offsets[level] + rows * strides + columns]
        pixels: NDArray[np.uint8] = found[..., None].view(np.uint8)
        return pixels
