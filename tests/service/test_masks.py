from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resq_core.tasks import mask_from_rle
from service.masks import (
    mask_png,
    mask_polygons,
    mask_runs,
    pack_bits,
    pack_ids,
    unpack_bits,
    unpack_ids,
)

IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_ids_come_back() -> None:
    assert np.array_equal(unpack_ids(pack_ids(IDS), (3, 4)), IDS)
    assert np.array_equal(unpack_ids(pack_ids(IDS.T), (4, 3)), IDS.T)


@pytest.mark.parametrize("data", [b"junk", zlib.compress(b"x" * 11), zlib.compress(b"x" * 10**6)])
def test_damaged_ids_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"zlib|hold"):
        unpack_ids(data, (3, 4))


def test_bits_come_back_within_a_sixtieth() -> None:
    bits = np.linspace(0, 8, 35, dtype=np.float32).reshape(5, 7)
    assert np.abs(unpack_bits(pack_bits(bits), (5, 7)) - bits).max() <= 1 / 60 + 1e-6


def test_png_indices_are_ids() -> None:
    palette = [(i, 2 * i, 255 - i) for i in range(12)]
    picture = Image.open(io.BytesIO(mask_png(IDS, palette)))
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), IDS)
    assert picture.convert("RGB").getpixel((1, 2)) == palette[9]


def patches(seed: int, size: tuple[int, int], cells: int) -> NDArray[np.uint8]:
    """Random regions: touching corners, holes, single pixels and borders among them."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 4, (cells, cells), dtype=np.uint8)
    picture = coarse.repeat(-(-size[0] // cells), 0).repeat(-(-size[1] // cells), 1)
    picture = picture[: size[0], : size[1]].copy()
    picture[random.random(size) < 0.05] = 9
    return picture


PATCHES = [
    patches(0, (1, 1), 1),
    patches(1, (1, 40), 7),
    patches(2, (33, 47), 5),
    patches(3, (64, 64), 64),
    np.full((20, 30), 7, np.uint8),
    np.pad(np.full((1, 1), 2, np.uint8), 4),
]


def filled(polygons: list[list[list[float]]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside, by the even-odd rule."""
    inside = np.zeros(size, bool)
    centres = np.arange(size[1]) + 0.5
    for rings in polygons:
        for ring in rings:
            points = np.array(ring).reshape(-1, 2)
            for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
                for row in range(size[0]):
                    if (y0 > row + 0.5) != (y1 > row + 0.5):
                        cross = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                        inside[row] ^= centres > cross
    return inside


def ids_of(found: dict[str, Any], masks: list[NDArray[np.bool_]]) -> NDArray[np.int64]:
    ids = np.full(found["size"], -1)
    for entry, mask in zip(found["objects"], masks, strict=True):
        assert np.all(ids[mask] == -1), "no pixel belongs to two"
        ids[mask] = entry["id"]
    return ids


@pytest.mark.parametrize("ids", PATCHES, ids=lambda ids: "x".join(map(str, ids.shape)))
def test_run_lengths_come_back(ids: NDArray[np.uint8]) -> None:
    found = mask_runs(ids)
    masks = [mask_from_rle(o["counts"], found["size"]) for o in found["objects"]]
    assert np.array_equal(ids_of(found, masks), ids)


@pytest.mark.parametrize("ids", PATCHES, ids=lambda ids: "x".join(map(str, ids.shape)))
def test_polygons_hold_the_pixels_whose_centres_are_inside(ids: NDArray[np.uint8]) -> None:
    found = mask_polygons(ids)
    masks = [filled(o["polygons"], ids.shape) for o in found["objects"]]
    assert np.array_equal(ids_of(found, masks), ids)


def test_a_ring_has_a_hole_and_straight_lines_two_points() -> None:
    ids = np.zeros((40, 50), np.uint8)
    ids[10:30, 10:40] = 3
    ids[15:20, 15:25] = 0
    (entry,) = mask_polygons(ids, background=0)["objects"]
    ((outer, hole),) = entry["polygons"]
    assert (len(outer), len(hole)) == (16, 16)
    assert (min(outer[::2]), max(outer[::2])) == (10.0, 40.0)
    assert (min(hole[1::2]), max(hole[1::2])) == (15.0, 20.0)


def test_the_background_is_left_out() -> None:
    assert [o["id"] for o in mask_runs(IDS, 0)["objects"]] == list(range(1, 12))
    assert [o["id"] for o in mask_polygons(IDS)["objects"]] == list(range(12))
