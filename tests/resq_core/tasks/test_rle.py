from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from resq_core.errors import InputError
from resq_core.tasks import mask_from_rle, mask_to_rle

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(MASKS, st.booleans())
def test_every_mask_comes_back(mask: np.ndarray, compressed: bool) -> None:
    rle = mask_to_rle(mask, compressed)
    assert rle["size"] == list(mask.shape)
    assert isinstance(rle["counts"], str if compressed else list)
    back = mask_from_rle(rle["counts"], rle["size"])
    assert back.dtype == np.bool_
    assert np.array_equal(back, mask)


@given(st.text(max_size=30) | st.binary(max_size=30) | st.lists(st.integers(), max_size=6))
def test_whatever_comes_gives_a_mask_or_an_input_error(counts: Any) -> None:
    try:
        mask = mask_from_rle(counts, (3, 4))
    except InputError:
        return
    assert mask.shape == (3, 4)


def test_runs_go_down_the_columns_and_begin_with_zeros() -> None:
    mask = np.array([[0, 1], [1, 1], [0, 0]], bool)
    assert mask_to_rle(mask) == {"size": [3, 2], "counts": [1, 1, 1, 2, 1]}
    full = np.ones((2, 3), bool)
    assert mask_to_rle(full) == {"size": [2, 3], "counts": [0, 6]}


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([0, 6, 1, 3], "061M"),  # worked out by hand: the last run as 3 − 6 = −3
        ([0, 6, 1, 6], "0610"),
        ([0, 1024], "0PP1"),
        ([16], "`0"),  # bit 4 of 16 would read as a sign, so a second character follows
    ],
)
def test_compressed_strings_known_from_the_format(counts: list[int], text: str) -> None:
    size = (1, sum(counts))
    mask = mask_from_rle(counts, size)
    assert mask_to_rle(mask, compressed=True)["counts"] == text
    assert np.array_equal(mask_from_rle(text, size), mask)
    assert np.array_equal(mask_from_rle(text.encode(), size), mask)


@pytest.mark.parametrize(
    ("counts", "size", "message"),
    [
        ([5], (2, 3), "cover 5 pixels; the size says 6"),
        ([-1, 7], (2, 3), "outside 0 to 6"),
        ([10**30], (2, 3), "expected whole numbers"),
        ([1.5, 4.5], (2, 3), "expected whole numbers"),
        ([[1, 5]], (2, 3), "expected whole numbers"),
        ([[1], 5], (2, 3), "one list of numbers"),
        ([0] * 9, (2, 3), "9 runs for 6 pixels"),
        ([6], (2, 3, 1), r"expected \[H, W\]"),
        ([0], (0, 3), "whole numbers from 1"),
        ([6], (2.0, 3), "whole numbers"),
        ([6], (2**20, 2**20), "at most 33554432 pixels"),
        ("6 ", (2, 3), "malformed"),
        ("oooooooo", (2, 3), "malformed"),
        ("o", (2, 3), "end within a number"),
        ("0" * 20, (2, 3), "more than 7 compressed runs"),
    ],
)
def test_what_is_no_mask(counts: Any, size: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mask_from_rle(counts, size)


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros(4, bool)])
def test_only_bool_pictures_are_written(mask: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected bool \[H, W\]"):
        mask_to_rle(mask)
