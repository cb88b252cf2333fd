from __future__ import annotations

import math

import numpy as np
import pytest

from resq_core.errors import InputError, OptionError
from resq_core.evaluation import PCK, box_size, torso_size

LABEL = np.array([(0.0, 0.0), (10.0, 0.0), (0.0, 40.0)])


def test_by_hand() -> None:
    assert box_size(LABEL) == 40
    score = PCK(3)
    off = LABEL + np.array([(8, 0), (0, 8.001), (3, 4)])  # within 0.2 · 40 = 8: yes, no, yes
    score.update(off, LABEL, 40)
    np.testing.assert_array_equal(score.per_joint(), [1, 0, 1])
    assert score.mean() == pytest.approx(2 / 3)
    score.update(LABEL, LABEL, 40, np.array([False, True, True]))
    np.testing.assert_array_equal(score.per_joint(), [1, 0.5, 1])
    np.testing.assert_array_equal(score.counts, [(1, 1), (2, 1), (2, 2)])
    assert score.mean() == pytest.approx(2.5 / 3)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0])
def test_the_threshold_is_alpha_times_the_size(alpha: float) -> None:
    near, far = PCK(3, alpha), PCK(3, alpha)
    near.update(LABEL + np.array((0.999 * alpha * 50, 0)), LABEL, 50)
    far.update(LABEL + np.array((1.001 * alpha * 50, 0)), LABEL, 50)
    assert (near.mean(), far.mean()) == (1, 0)


def test_a_joint_never_labelled_is_left_out_and_one_not_found_is_wrong() -> None:
    score = PCK(3)
    assert math.isnan(score.mean())
    label, predicted = LABEL.copy(), LABEL.copy()
    label[0] = np.nan
    predicted[1] = np.nan
    score.update(predicted, label, 40, np.array([False, True, True]))
    np.testing.assert_array_equal(score.per_joint(), [np.nan, 0, 1])
    assert score.mean() == 0.5


def test_scores_in_a_third_column_are_not_used() -> None:
    score = PCK(3)
    score.update(np.column_stack((LABEL, [9, 9, 9])), LABEL, 10)
    assert score.mean() == 1


def test_sizes() -> None:
    assert box_size(LABEL, np.array([True, True, False])) == 10
    assert torso_size(LABEL, (1, 2)) == pytest.approx(math.hypot(10, 40))
    jhmdb = np.zeros((15, 2))
    jhmdb[4], jhmdb[5] = (3, 0), (0, 4)
    assert torso_size(jhmdb) == 5
    with pytest.raises(InputError, match="no joint is labelled"):
        box_size(LABEL, np.zeros(3, bool))
    with pytest.raises(InputError, match="there are 3"):
        torso_size(LABEL)


def test_what_cannot_be_scored_counts_nothing() -> None:
    score = PCK(3)
    for size in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="size"):
            score.update(LABEL, LABEL, size)
    with pytest.raises(InputError, match="prediction has the shape"):
        score.update(LABEL[:2], LABEL, 1)
    with pytest.raises(InputError, match="label has the shape"):
        score.update(LABEL, LABEL[:, :1], 1)
    with pytest.raises(InputError, match="expected bool"):
        score.update(LABEL, LABEL, 1, np.ones(3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not finite"):
        score.update(LABEL, LABEL * np.nan, 1)
    assert not score.counts.any()


@pytest.mark.parametrize(("joints", "alpha"), [(0, 0.2), (1_001, 0.2), (3, 0.0), (3, math.nan)])
def test_options_out_of_range(joints: int, alpha: float) -> None:
    with pytest.raises(OptionError, match="expected"):
        PCK(joints, alpha)
