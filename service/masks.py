"""Masks and bit maps as bytes for the wire, and back."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["BIT_SCALE", "mask_png", "pack_bits", "pack_ids", "unpack_bits", "unpack_ids"]

BIT_SCALE = 30  # 8 bits become 240
_LEVEL = 1


def pack_ids(ids: NDArray[np.uint8]) -> bytes:
    """Class ids uint8 [H, W], row by row, zlib-compressed."""
    return zlib.compress(np.ascontiguousarray(ids).tobytes(), _LEVEL)


def unpack_ids(data: bytes, shape: Sequence[int]) -> NDArray[np.uint8]:
    """What `pack_ids` packed, as uint8 [H, W].

    Raises:
        ValueError: the bytes are damaged or of another shape.
    """
    height, width = shape
    if not (0 < height <= 1 << 14 and 0 < width <= 1 << 14):
        raise ValueError(f"shape is {tuple(shape)}; expected sides of 1 to {1 << 14}")
    engine = zlib.decompressobj()
    try:
        raw = engine.decompress(data, height * width + 1)
    except zlib.error as error:
        raise ValueError(f"not zlib data: {error}") from error
    if len(raw) != height * width or not engine.eof:
        raise ValueError(f"the data does not hold {height}x{width} values")
    return np.frombuffer(raw, np.uint8).reshape(height, width)


def pack_bits(bits: NDArray[np.float32]) -> bytes:
    """Bits 0 to 8 as float32 [h, w]: times 30, rounded to uint8, zlib-compressed."""
    scaled = np.rint(np.clip(bits, 0.0, 8.0) * BIT_SCALE).astype(np.uint8)
    return zlib.compress(scaled.tobytes(), _LEVEL)


def unpack_bits(data: bytes, shape: Sequence[int]) -> NDArray[np.float32]:
    """What `pack_bits` packed, as float32 [h, w], within 1/60 of a bit.

    Raises:
        ValueError: the bytes are damaged or of another shape.
    """
    return unpack_ids(data, shape).astype(np.float32) / np.float32(BIT_SCALE)


def mask_png(ids: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]) -> bytes:
    """Class ids uint8 [H, W] as a palette PNG: its indices are the ids."""
    picture = Image.fromarray(np.ascontiguousarray(ids), mode=None)
    picture.putpalette([value for colour in palette for value in colour])
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=_LEVEL)
    return out.getvalue()
