from __future__ import annotations

import math
import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_core.errors import OptionError
from resq_core.tasks import Box, Crop
from resq_core.tasks.boxes import cut_out

SIZE = (16, 12)

sides = st.floats(0.01, 1e6)
places = st.floats(-1e6, 1e6)
boxes = st.builds(Box, places, places, sides, sides)

# What cv2.warpAffine 5.0.0 (INTER_LINEAR) made of `picture()` for each box at 16x12 pixels:
# every 17th pixel in row order. Its matrix came from three points, as the official code does it.
OPENCV = {
    Box(20, 10, 12, 20): [
        (186, 43, 196), (124, 113, 31), (30, 48, 132), (172, 160, 229), (212, 126, 103),
        (108, 130, 147), (158, 224, 162), (208, 184, 75), (94, 85, 134), (144, 77, 188),
        (70, 222, 193), (80, 85, 20),
    ],
    Box(-10, -6, 30, 20): [
        *[(0, 0, 0)] * 6, (229, 37, 57), (74, 191, 205), (0, 0, 0), (201, 160, 105), (0, 0, 0),
        (73, 144, 100),
    ],
    Box(50, 30, 40, 9): [
        (142, 236, 228), (0, 0, 0), (0, 0, 0), (41, 160, 156), (0, 0, 0), (105, 162, 181),
        (0, 0, 0), (0, 0, 0), (239, 104, 118), *[(0, 0, 0)] * 3,
    ],
    Box(31.3, 20.7, 1.5, 2.25): [
        (91, 147, 114), (126, 67, 88), (160, 111, 62), (119, 33, 26), (153, 90, 46),
        (111, 13, 70), (146, 69, 89), (180, 126, 109), (139, 48, 134), (173, 105, 154),
        (132, 27, 180), (166, 84, 186),
    ],
}  # fmt: skip


def picture() -> np.ndarray:
    y, x = np.mgrid[:48, :64]
    layers = (x * 37 + y * 11, x * x + 3 * y, x * 5 + y * y * 2)
    return np.stack([layer % 256 for layer in layers], 2).astype(np.uint8)


@pytest.mark.parametrize("box", OPENCV, ids=str)
def test_a_crop_is_what_opencv_makes_of_it(box: Box) -> None:
    got = cut_out(picture(), Crop.around(box, SIZE), SIZE).reshape(-1, 3)[::17]
    assert np.abs(got.astype(int) - OPENCV[box]).max() <= 1


def test_a_crop_pixel_by_pixel() -> None:
    image = picture()
    crop = Crop.around(Box(-7, 20, 33, 41), SIZE)
    got = cut_out(image, crop, SIZE)
    step = crop.width / SIZE[1]
    for row, column in product(range(SIZE[0]), range(SIZE[1])):
        x = crop.x + (column - SIZE[1] / 2) * step
        y = crop.y + (row - SIZE[0] / 2) * step
        left, top = math.floor(x), math.floor(y)
        want = np.zeros(3)
        for px, py in product((left, left + 1), (top, top + 1)):
            if 0 <= px < image.shape[1] and 0 <= py < image.shape[0]:
                want += image[py, px] * (1 - abs(x - px)) * (1 - abs(y - py))
        assert np.abs(got[row, column] - want).max() <= 0.51


def test_a_crop_of_the_same_scale_on_whole_pixels_is_a_slice() -> None:
    image = picture()
    crop = Crop(30, 20, 12, 16, Box(0, 0, 1, 1))
    np.testing.assert_array_equal(cut_out(image, crop, SIZE), image[12:28, 24:36])


@pytest.mark.parametrize(
    ("box", "centre", "width", "height"),
    [
        (Box(10, 20, 30, 40), (25, 40), 37.5, 50),  # of the input's shape already
        (Box(10, 20, 60, 40), (40, 40), 75, 100),  # too wide: taller
        (Box(10, 20, 3, 40), (11.5, 40), 37.5, 50),  # too tall: wider
        (Box(-5.5, 0, 0.03, 0.01), (-5.485, 0.005), 0.0375, 0.05),
    ],
)
def test_the_official_rule(
    box: Box, centre: tuple[float, float], width: float, height: float
) -> None:
    crop = Crop.around(box, SIZE)
    assert (crop.x, crop.y, crop.width, crop.height) == pytest.approx((*centre, width, height))
    assert crop.box is box


def test_crops_of_the_same_part_are_equal() -> None:
    square = Crop.around(Box(0, 0, 10, 10), (64, 64))
    assert Crop.around(Box(0, 2, 10, 6), (64, 64)) == square
    assert Crop.around(Box(0, 2, 10, 7), (64, 64)) != square


@given(boxes, st.tuples(st.integers(1, 300), st.integers(1, 300)), st.floats(-50, 350))
def test_points_go_to_the_crop_and_back(box: Box, grid: tuple[int, int], at: float) -> None:
    crop = Crop.around(box, SIZE)
    points = np.array([[at, -at], [0, 0], [grid[1], grid[0]]])
    back = crop.from_image(crop.to_image(points, grid), grid)
    # a box far away has few digits left for its own cells
    digits = 1e-9 * max(1, max(abs(crop.x), abs(crop.y)) * max(grid) / min(crop.width, crop.height))
    np.testing.assert_allclose(back, points, rtol=1e-9, atol=digits)
    corner, end = crop.to_image(points[1:], grid)
    np.testing.assert_allclose((corner + end) / 2, (crop.x, crop.y), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(end - corner, (crop.width, crop.height), rtol=1e-3, atol=1e-6)


@given(boxes)
def test_no_box_breaks_the_crop(box: Box) -> None:
    pixels = cut_out(picture(), Crop.around(box, SIZE), SIZE)
    assert pixels.shape == (*SIZE, 3)
    assert pixels.dtype == np.uint8


@given(boxes, st.integers(1, 16_384), st.integers(1, 16_384))
def test_a_resized_box_is_a_box(box: Box, height: int, width: int) -> None:
    box.resized((480, 640), (height, width))
    box.resized((height, width), (1, 16_384))


def test_a_resized_box_keeps_its_place() -> None:
    assert Box(10, 20, 30, 40).resized((100, 200), (50, 400)) == Box(20, 10, 60, 20)


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        (Box(0, 0, 1, 1), True),
        (Box(-5, -5, 5.1, 5.1), True),
        (Box(-5, 3, 5, 5), False),
        (Box(63.9, 47.9, 9, 9), True),
        (Box(64, 0, 9, 9), False),
        (Box(0, 48, 9, 9), False),
        (Box(-100, -100, 900, 900), True),
    ],
)
def test_what_overlaps_a_picture(box: Box, inside: bool) -> None:
    assert box.overlaps((48, 64)) is inside


@pytest.mark.parametrize(
    "values",
    [
        (0, 0, 0, 5),
        (0, 0, 5, -1),
        (0, 0, 5, 0.009),
        (math.nan, 0, 5, 5),
        (0, math.inf, 5, 5),
        (0, 0, math.nan, 5),
        (0, 0, 5, math.inf),
        (0, 2e6, 5, 5),
        (0, 0, 2e6, 5),
    ],
)
def test_what_is_not_a_box(values: tuple[float, float, float, float]) -> None:
    with pytest.raises(OptionError, match="expected x and y within"):
        Box(*values)


def test_a_box_names_itself() -> None:
    with pytest.raises(OptionError, match=re.escape("the box is 0x5 at (1, 2.5)")):
        Box(1, 2.5, 0, 5)
