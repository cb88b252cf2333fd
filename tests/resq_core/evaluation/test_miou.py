from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_core.errors import InputError, OptionError
from resq_core.evaluation import ConfusionMatrix

VOID = 9


def test_by_hand() -> None:
    matrix = ConfusionMatrix(3, VOID)
    matrix.update(np.array([[0, 0, 1], [1, 2, 0]]), np.array([[0, 1, 1], [1, 0, VOID]]))
    np.testing.assert_array_equal(matrix.counts, [[1, 0, 1], [1, 2, 0], [0, 0, 0]])
    np.testing.assert_allclose(matrix.iou(), [1 / 3, 2 / 3, 0])
    assert matrix.miou() == pytest.approx(1 / 3)
    assert matrix.pixel_accuracy() == pytest.approx(3 / 5)


def test_a_class_neither_labelled_nor_found_is_left_out() -> None:
    matrix = ConfusionMatrix(4, VOID)
    matrix.update(np.array([0, 0, 3]), np.array([0, 1, VOID]))
    np.testing.assert_allclose(matrix.iou(), [1 / 2, 0, np.nan, np.nan])
    assert matrix.miou() == pytest.approx(1 / 4)


def test_before_the_first_scored_pixel() -> None:
    matrix = ConfusionMatrix(2, VOID)
    matrix.update(np.array([0, 1]), np.array([VOID, VOID]))
    assert math.isnan(matrix.miou())
    assert math.isnan(matrix.pixel_accuracy())
    assert np.isnan(matrix.iou()).all()


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_counts_equal_a_loop_over_sets(classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    matrix = ConfusionMatrix(classes, VOID)
    preds, labels = generator.integers(0, classes, (2, 3, 4, 5), dtype=np.uint8)
    labels[generator.random(labels.shape) < 0.2] = VOID
    for pred, label in zip(preds, labels, strict=True):
        matrix.update(pred, label)
    scored = labels != VOID
    for index, value in enumerate(matrix.iou()):
        said, true = (preds == index) & scored, (labels == index) & scored
        union = int((said | true).sum())
        want = int((said & true).sum()) / union if union else math.nan
        np.testing.assert_allclose(value, want)


def test_the_ignored_value_may_be_predicted_where_it_is_labelled() -> None:
    matrix = ConfusionMatrix(2, 255)
    matrix.update(np.array([255, 1], np.uint8), np.array([255, 1], np.uint8))
    assert matrix.counts.sum() == 1


def test_counts_are_a_copy() -> None:
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 5
    assert matrix.counts.sum() == 0


@pytest.mark.parametrize(
    ("pred", "label", "message"),
    [
        ([0, 1], [0], r"prediction is \(2,\) and the label \(1,\)"),
        ([0.0], [0], "prediction holds float64"),
        ([0], [True], "label holds bool"),
        ([2], [0], "prediction holds 2; the classes are 0 to 1"),
        ([0], [3], "label holds 3"),
        ([-1], [0], "prediction holds -1"),
    ],
)
def test_what_does_not_fit_counts_nothing(pred: list[int], label: list[int], message: str) -> None:
    matrix = ConfusionMatrix(2, VOID)
    with pytest.raises(InputError, match=message):
        matrix.update(np.array(pred), np.array(label))
    assert matrix.counts.sum() == 0


def test_options_out_of_range() -> None:
    for classes in (0, 10_001):
        with pytest.raises(OptionError, match="num_classes"):
            ConfusionMatrix(classes)
    with pytest.raises(OptionError, match="ignore_index 1 is a class"):
        ConfusionMatrix(2, 1)
