from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resq_core.errors import InputError, OptionError
from resq_core.evaluation import Statistics, boundary_accuracy, region_similarity
from resq_core.evaluation.davis import _dilated, boundary


def square(top: int, left: int, side: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_j_of_known_masks() -> None:
    a = square(10, 10, 10)
    assert region_similarity(a, a) == 1
    assert region_similarity(a, square(10, 15, 10)) == pytest.approx(50 / 150)
    assert region_similarity(a, square(40, 40, 10)) == 0
    empty = np.zeros_like(a)
    assert region_similarity(empty, empty) == 1
    assert region_similarity(empty, a) == 0


def test_a_boundary_is_one_pixel_wide_and_not_at_the_edge_of_the_picture() -> None:
    assert np.argwhere(boundary(square(2, 2, 1, (5, 5)))).tolist() == [
        [1, 1],
        [1, 2],
        [2, 1],
        [2, 2],
    ]
    half = np.zeros((3, 4), bool)
    half[:, :2] = True
    assert boundary(half).tolist() == [[False, True, False, False]] * 3
    assert not boundary(np.ones((3, 4), bool)).any()


def test_f_forgives_what_lies_within_the_radius() -> None:
    a = square(20, 20, 20)  # the diagonal is 100 pixels, so the radius is 1
    assert boundary_accuracy(a, a) == 1
    assert boundary_accuracy(a, square(20, 21, 20)) == 1
    assert boundary_accuracy(a, square(20, 22, 20)) < 1
    assert boundary_accuracy(a, square(20, 22, 20), tolerance=0.02) == 1
    assert boundary_accuracy(a, square(50, 60, 5)) == 0


def test_f_from_counts_by_hand() -> None:
    left, both = np.zeros((6, 100), bool), np.zeros((6, 100), bool)
    left[:, :20] = True
    both[:, :20] = both[:, 60:] = True  # two upright borders where `left` has one
    assert boundary_accuracy(both, left) == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert boundary_accuracy(left, both) == pytest.approx(2 * 0.5 * 1 / 1.5)


def test_f_without_a_boundary() -> None:
    empty, a = np.zeros((60, 80), bool), square(20, 20, 20)
    assert boundary_accuracy(empty, empty) == 1
    assert boundary_accuracy(empty, a) == 0
    assert boundary_accuracy(a, empty) == 0


@given(arrays(np.bool_, (9, 13)), st.integers(0, 15))
def test_dilation_is_by_a_disc(mask: np.ndarray, radius: int) -> None:
    y, x = np.mgrid[:9, :13]
    want = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        want |= (y - row) ** 2 + (x - column) ** 2 <= radius**2
    assert np.array_equal(_dilated(mask, radius), want)


def test_statistics_by_hand() -> None:
    values = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]  # quarters meet at 0, 2, 4, 6 and 8
    s = Statistics.of(values)
    assert s.mean == pytest.approx(0.6)
    assert s.recall == pytest.approx(5 / 9)
    assert s.decay == pytest.approx(0.9 - 0.3)
    assert Statistics.of([0.7]) == Statistics(0.7, 1.0, 0.0)


def test_statistics_leave_out_frames_without_a_number() -> None:
    s = Statistics.of([math.nan, 1.0, 0.0, math.nan])
    assert (s.mean, s.recall) == (0.5, 0.5)
    with pytest.raises(InputError, match="a number per frame"):
        Statistics.of([])
    with pytest.raises(InputError, match="a number per frame"):
        Statistics.of([math.nan])


@pytest.mark.parametrize("measure", [region_similarity, boundary_accuracy])
def test_masks_that_do_not_fit(measure: object) -> None:
    assert callable(measure)
    good = square(1, 1, 2)
    with pytest.raises(InputError, match=r"\(60, 80\) and \(5, 5\)"):
        measure(good, square(1, 1, 2, (5, 5)))
    with pytest.raises(InputError, match=r"predicted mask is uint8"):
        measure(good.astype(np.uint8), good)
    with pytest.raises(OptionError, match="tolerance"):
        boundary_accuracy(good, good, tolerance=-1)
