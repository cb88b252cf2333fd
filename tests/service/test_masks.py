from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from service.masks import mask_png, pack_bits, pack_ids, unpack_bits, unpack_ids

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
