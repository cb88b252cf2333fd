"""Masks and bit maps as bytes for the wire, and back."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from PIL import Image

from resq_core.tasks import mask_to_rle

__all__ = [
    "BIT_SCALE",
    "mask_png",
    "mask_polygons",
    "mask_runs",
    "pack_bits",
    "pack_ids",
    "pack_json",
    "unpack_bits",
    "unpack_ids",
]

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


def mask_runs(ids: NDArray[np.uint8], background: int | None = None) -> dict[str, Any]:
    """Ids uint8 [H, W] as COCO's compressed run lengths, one entry for each id but `background`:
    {"format": "rle", "size": [H, W], "objects": [{"id", "counts"}]}."""
    objects = [
        {"id": i, "counts": mask_to_rle(ids == i, compressed=True)["counts"]}
        for i in _present(ids, background)
    ]
    return {"format": "rle", "size": list(ids.shape), "objects": objects}


def mask_polygons(ids: NDArray[np.uint8], background: int | None = None) -> dict[str, Any]:
    """Ids uint8 [H, W] as outlines, one entry for each id but `background`:
    {"format": "polygons", "size": [H, W], "objects": [{"id", "polygons": [[ring, hole, ...]]}]}.

    A ring is [x0, y0, x1, y1, ...] in pixels from the upper left corner of the picture, without
    its first point again; outer rings come first. They run halfway between the centres of pixels
    inside and outside, so the pixels whose centres lie inside are those of the mask, exactly.
    """
    objects = [{"id": i, "polygons": _polygons(ids == i)} for i in _present(ids, background)]
    return {"format": "polygons", "size": list(ids.shape), "objects": objects}


def pack_json(value: object) -> bytes:
    """As JSON, zlib-compressed."""
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), _LEVEL)


def _present(ids: NDArray[np.uint8], background: int | None) -> list[int]:
    counts = np.bincount(ids.ravel(), minlength=256)
    return [i for i in np.flatnonzero(counts).tolist() if i != background]


def _polygons(mask: NDArray[np.bool_]) -> list[list[list[float]]]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    padded = np.pad(part, 1).astype(np.float64)
    found = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
    points, offsets = cast("tuple[list[NDArray[np.float64]], list[NDArray[np.uint32]]]", found)
    shift = np.array([left - 0.5, top - 0.5])  # the padding, and centres half a pixel in
    return [
        [_corners(p[a:b] + shift) for a, b in pairwise(o)]
        for p, o in zip(points, offsets, strict=True)
    ]


def _corners(ring: NDArray[np.float64]) -> list[float]:
    """A closed ring without its last point, and without those on a straight line."""
    ring = ring[:-1]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: list[float] = ring[turns].ravel().tolist()
    return corners
