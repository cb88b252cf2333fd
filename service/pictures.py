"""Single pictures from strangers: checked before they are decoded, then uint8 RGB."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = [
    "IMAGE_FORMATS",
    "DecodeError",
    "Limits",
    "Picture",
    "check_bytes",
    "check_size",
    "decode_image",
    "decode_rgb",
    "short",
]

Picture = NDArray[np.uint8]
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a frame may be. `max_pixels` is checked before any pixel is decoded."""

    max_bytes: int = 8 << 20
    max_pixels: int = 3840 * 2160
    min_side: int = 16
    max_side: int = 8192


class DecodeError(ValueError):
    """A frame that cannot be had. `reason` is short and stable: what a `drop` carries."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raise DecodeError unless a picture of this size, in pixels, is within the limits."""
    size = f"the frame is {width}x{height} pixels"
    if min(width, height) < limits.min_side:
        raise DecodeError("too_small", f"{size}; expected at least {limits.min_side} on each side")
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise DecodeError(
            "too_big",
            f"{size}; expected at most {limits.max_pixels} in all and {limits.max_side} on a side",
        )


def check_bytes(data: bytes, limits: Limits) -> None:
    """Raise DecodeError unless there are bytes, and no more than the limits allow."""
    if not data:
        raise DecodeError("bad_frame", "the frame is empty")
    if len(data) > limits.max_bytes:
        raise DecodeError(
            "too_big", f"the frame has {len(data)} bytes; expected at most {limits.max_bytes}"
        )


def decode_image(data: bytes, limits: Limits) -> Picture:
    """A JPEG, PNG or WebP as uint8 [H, W, 3] RGB; of an animation its first picture.

    Raises:
        DecodeError: not such a picture, damaged, or outside the limits.
        MemoryError: there is not enough for it.
    """
    check_bytes(data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as picture:
            check_size(*picture.size, limits)
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except DecodeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError(
            "too_big", f"the picture has more than {limits.max_pixels} pixels"
        ) from error
    except UnidentifiedImageError as error:
        raise DecodeError("bad_frame", "not a JPEG, PNG or WebP picture") from error
    except MemoryError:
        raise
    except Exception as error:  # codecs raise what they like on hostile bytes
        raise DecodeError(
            "bad_frame", f"not a readable JPEG, PNG or WebP: {short(error)}"
        ) from error


def decode_rgb(data: bytes, shape: object, limits: Limits) -> Picture:
    """Raw uint8 RGB of shape [h, w] (a list of two whole numbers).

    Raises:
        DecodeError: the shape is none, outside the limits, or not that of the bytes.
    """
    if not isinstance(shape, list) or len(shape) != 2 or any(type(s) is not int for s in shape):
        raise DecodeError("bad_frame", "meta.shape is missing; expected [height, width]")
    height, width = shape
    check_size(width, height, limits)
    if len(data) != height * width * 3:
        raise DecodeError(
            "bad_frame",
            f"{len(data)} bytes for {width}x{height} RGB; expected {height * width * 3}",
        )
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def short(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
