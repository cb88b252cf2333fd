"""Mean intersection over union, from counts gathered over any number of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_core.errors import InputError, OptionError

__all__ = ["ConfusionMatrix"]

_MAX_CLASSES = 10_000

Ids = NDArray[np.integer[Any]]


class ConfusionMatrix:
    """Pixel counts by labelled and predicted class.

    num_classes: 1 to 10,000. ignore_index: the label value that is not scored (None: every pixel
    is); it must not be the value of a class.

    Raises OptionError where one of these does not hold.
    """

    def __init__(self, num_classes: int, ignore_index: int | None = None) -> None:
        if not 1 <= num_classes <= _MAX_CLASSES:
            raise OptionError(f"num_classes is {num_classes}; expected 1 to {_MAX_CLASSES}")
        if ignore_index is not None and 0 <= ignore_index < num_classes:
            raise OptionError(
                f"ignore_index {ignore_index} is a class; the classes are 0 to {num_classes - 1}"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._counts = np.zeros((num_classes, num_classes), np.int64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """A copy of the counts, [labelled class, predicted class]."""
        return self._counts.copy()

    def update(self, pred: Ids, label: Ids) -> None:
        """Add one picture: class ids, integers of one shape.

        Raises InputError, and counts nothing, for shapes that differ, types that are not
        integers, or an id outside the classes where the label is not the ignored one.
        """
        pred, label = np.asarray(pred), np.asarray(label)
        if pred.shape != label.shape:
            raise InputError(f"the prediction is {pred.shape} and the label {label.shape}")
        for what, ids in (("prediction", pred), ("label", label)):
            if ids.dtype.kind not in "iu":
                raise InputError(f"the {what} holds {ids.dtype}; expected integers")
        scored = np.ones(label.shape, bool)
        if self.ignore_index is not None:
            scored = label != self.ignore_index
        rows = self._class_ids(label[scored], "label")
        columns = self._class_ids(pred[scored], "prediction")
        n = self.num_classes
        self._counts += np.bincount(rows * n + columns, minlength=n * n).reshape(n, n)

    def merge(self, counts: NDArray[np.int64]) -> None:
        """Add the `counts` of another one.

        Raises InputError, and counts nothing, for another shape or a count below 0.
        """
        if counts.shape != self._counts.shape or counts.min() < 0:
            raise InputError(
                f"the counts are {list(counts.shape)}, from {counts.min(initial=0)}; expected "
                f"{list(self._counts.shape)}, from 0"
            )
        self._counts += counts

    def _class_ids(self, ids: Ids, what: str) -> NDArray[np.int64]:
        strange = ids[(ids < 0) | (ids >= self.num_classes)]
        if strange.size:
            raise InputError(
                f"the {what} holds {strange[0]}; the classes are 0 to {self.num_classes - 1}"
            )
        return ids.astype(np.int64)

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union by class, 0 to 1; NaN for a class neither labelled nor found."""
        hits = np.diag(self._counts)
        union = self._counts.sum(0) + self._counts.sum(1) - hits
        result = np.full(self.num_classes, np.nan)
        np.divide(hits, union, out=result, where=union > 0)
        return result

    def miou(self) -> float:
        """The mean of `iou` over classes that are not NaN; NaN before the first scored pixel."""
        iou = self.iou()
        present = iou[~np.isnan(iou)]
        return float(present.mean()) if present.size else float("nan")

    def pixel_accuracy(self) -> float:
        """The share of scored pixels that are right, 0 to 1; NaN before the first."""
        total = int(self._counts.sum())
        return float(np.diag(self._counts).sum() / total) if total else float("nan")
