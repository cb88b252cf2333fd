"""What every task checks of its pictures and of the numbers that normalise them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resq_core.errors import InputError, OptionError

__all__ = [
    "Picture",
    "Size",
    "check_picture",
    "check_size",
    "check_statistics",
    "normalised",
    "read_picture",
]

Picture = NDArray[np.uint8]
Size = tuple[int, int]
"""(height, width) in pixels."""

_MAX_SIDE = 16_384
_MAX_PIXELS = 64_000_000


def check_picture(image: Picture) -> None:
    """Raise InputError unless it is uint8 [H, W, 3] with sides of 1 to 16,384 pixels."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"the picture is {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3]"
        )
    check_size(image.shape[:2], "the picture's size", InputError)


def check_size(size: Sequence[int], what: str, error: type[InputError | OptionError]) -> None:
    """Raise `error` unless size is (height, width), each 1 to 16,384 pixels."""
    if len(size) != 2 or not all(1 <= side <= _MAX_SIDE for side in size):
        raise error(f"{what} is {tuple(size)}; expected (H, W), each 1 to {_MAX_SIDE} pixels")


def check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise OptionError unless both are three finite values and std is above 0."""
    if len(mean) != 3 or not all(math.isfinite(value) for value in mean):
        raise OptionError(f"mean is {list(mean)}; expected three finite values")
    if len(std) != 3 or not all(math.isfinite(value) and value > 0 for value in std):
        raise OptionError(f"std is {list(std)}; expected three finite values above 0")


def normalised(levels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Grey levels 0 to 255 [1, 3, h, w] as a network takes them; mean and std [1, 3, 1, 1]."""
    return (levels / 255 - mean) / std


def read_picture(path: Path, mode: str | None = None) -> Picture:
    """A picture file as uint8, [H, W, 3] with `mode` RGB, as the file has it with None.

    Raises InputError, naming the file, where it cannot be read or has over 64,000,000 pixels.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise InputError(
                    f"{path} is {image.width}x{image.height}; at most {_MAX_PIXELS} pixels are read"
                )
            return np.array(image.convert(mode) if mode else image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a picture: {error}") from error
