"""PCK, the percentage of correct keypoints: joints found within a share of a person's size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_core.errors import InputError, OptionError

__all__ = ["PCK", "box_size", "torso_size"]

_MAX_JOINTS = 1_000
_TORSO = (4, 5)  # left shoulder and right hip of JHMDB, whose scores use them

Points = NDArray[np.floating[Any]]
Marks = NDArray[np.bool_]


class PCK:
    """Counts, by joint, of labelled joints and of those found within alpha times a size.

    joints: 1 to 1,000. alpha: above 0; JHMDB is scored with 0.2 of `box_size`.

    Raises OptionError where one of these does not hold.
    """

    def __init__(self, joints: int, alpha: float = 0.2) -> None:
        if not 1 <= joints <= _MAX_JOINTS:
            raise OptionError(f"joints is {joints}; expected 1 to {_MAX_JOINTS}")
        if not math.isfinite(alpha) or alpha <= 0:
            raise OptionError(f"alpha is {alpha}; expected a finite value above 0")
        self.joints, self.alpha = joints, alpha
        self._labelled = np.zeros(joints, np.int64)
        self._found = np.zeros(joints, np.int64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """A copy of the counts, [joint, (labelled, found)]."""
        return np.stack((self._labelled, self._found), 1)

    def update(
        self, predicted: Points, label: Points, size: float, labelled: Marks | None = None
    ) -> None:
        """Add one person.

        predicted, label: [K, 2] in pixels, or [K, 3], whose third column is not used.
        size: of the person in pixels, above 0: `box_size` or `torso_size`.
        labelled: bool [K], the joints to score; None for all.

        A joint on the very threshold is found; one predicted as NaN is not.

        Raises InputError, and counts nothing, where one of these does not hold, or a joint to
        score has a label that is not finite.
        """
        if not math.isfinite(size) or size <= 0:
            raise InputError(f"the person's size is {size}; expected pixels above 0")
        found = _points(predicted, self.joints, "prediction")
        true = _points(label, self.joints, "label")
        marks = _marks(labelled, self.joints)
        if not np.isfinite(true[marks]).all():
            raise InputError("the label of a joint to score is not finite")
        distance = np.linalg.norm(found[marks] - true[marks], axis=1)
        self._labelled[marks] += 1
        self._found[marks] += distance <= self.alpha * size

    def merge(self, counts: NDArray[np.int64]) -> None:
        """Add the `counts` of another one.

        Raises InputError, and counts nothing, for another shape, a count below 0, or more joints
        found than labelled.
        """
        if (
            counts.shape != (self.joints, 2)
            or counts.min() < 0
            or (counts[:, 1] > counts[:, 0]).any()
        ):
            raise InputError(f"no counts of {self.joints} joints: {counts.tolist()}"[:200])
        self._labelled += counts[:, 0]
        self._found += counts[:, 1]

    def per_joint(self) -> NDArray[np.float64]:
        """The share of each joint that was found, 0 to 1; NaN for one never labelled."""
        result = np.full(self.joints, np.nan)
        np.divide(self._found, self._labelled, out=result, where=self._labelled > 0)
        return result

    def mean(self) -> float:
        """The mean of `per_joint` over joints that are not NaN; NaN before the first."""
        shares = self.per_joint()
        present = shares[~np.isnan(shares)]
        return float(present.mean()) if present.size else float("nan")


def box_size(label: Points, labelled: Marks | None = None) -> float:
    """The longer side of the rectangle around the labelled joints [K, 2 or 3], in pixels.

    Raises InputError for other shapes, or where no joint is labelled.
    """
    true = _points(label, len(label), "label")
    true = true[_marks(labelled, len(true))]
    if not len(true):
        raise InputError("no joint is labelled, so the person has no size")
    return float(np.ptp(true, axis=0).max())


def torso_size(label: Points, ends: tuple[int, int] = _TORSO) -> float:
    """The distance in pixels between two joints of [K, 2 or 3]; by default those of JHMDB.

    Raises InputError for other shapes, or a joint that there is not.
    """
    true = _points(label, len(label), "label")
    if not all(0 <= joint < len(true) for joint in ends):
        raise InputError(f"the torso is joints {ends}; there are {len(true)}")
    return float(np.linalg.norm(true[ends[0]] - true[ends[1]]))


def _points(values: Points, joints: int, what: str) -> NDArray[np.float64]:
    points = np.asarray(values, np.float64)
    if points.ndim != 2 or points.shape[0] != joints or points.shape[1] not in (2, 3):
        raise InputError(
            f"the {what} has the shape {list(points.shape)}; expected [{joints}, 2 or 3]"
        )
    return points[:, :2]


def _marks(labelled: Marks | None, joints: int) -> Marks:
    if labelled is None:
        return np.ones(joints, bool)
    marks = np.asarray(labelled)
    if marks.dtype != np.bool_ or marks.shape != (joints,):
        raise InputError(f"labelled is {marks.dtype} {list(marks.shape)}; expected bool [{joints}]")
    return marks
