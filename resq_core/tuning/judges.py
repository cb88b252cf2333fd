"""What a stream's frames are worth beside the same network's own W8A8 frames, in points.

Every score runs from 0 to 100, and the drop is what the W8A8 frames score more. They come from
the same network at full activation bits, frame by frame, so the drop says what residual
quantization costs and not how good the network is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resq_core.errors import InputError
from resq_core.evaluation import PCK, ConfusionMatrix, boundary_accuracy, region_similarity
from resq_core.evaluation.pck import box_size
from resq_core.tasks.pose import MIN_SCORE, Pose

__all__ = [
    "JOINT_DISTANCE",
    "Judge",
    "LabelledMiou",
    "MaskAgreement",
    "PixelAgreement",
    "PoseAgreement",
]

Ids = NDArray[np.uint8]

JOINT_DISTANCE = 0.05
"""How far a joint may lie from the W8A8 one and agree, in longer sides of the person."""


class Judge(Protocol):
    """Scores a clip's predictions.

    Attributes:
        measure: what a point is, in words.
        baseline: what the W8A8 frames score.
    """

    measure: str
    baseline: float

    def score(self, outputs: Iterable[Any]) -> float:
        """Points, 0 to 100, of the predictions of all frames in order."""
        ...


class PixelAgreement:
    """The share of pixels with the class of the W8A8 frame: class ids uint8 [H, W] per frame."""

    measure = "pixel agreement with W8A8"
    baseline = 100.0

    def __init__(self, reference: Sequence[Ids]) -> None:
        self._reference = reference

    def score(self, outputs: Iterable[Ids]) -> float:
        """See `Judge`."""
        pairs = zip(outputs, self._reference, strict=True)
        return 100 * float(np.mean([(found == same).mean() for found, same in pairs]))


class PoseAgreement:
    """The share of joints within `JOINT_DISTANCE` of where the W8A8 frames put them.

    Only joints that W8A8 is sure of count: those that score `MIN_SCORE` or more.

    Raises:
        InputError: W8A8 is sure of fewer than two joints in every frame.
    """

    measure = f"joints within {JOINT_DISTANCE:.0%} of the person's longer side of W8A8's"
    baseline = 100.0

    def __init__(self, reference: Sequence[Pose]) -> None:
        self._reference = [pose.keypoints for pose in reference]
        self._seen = [points[:, 2] >= MIN_SCORE for points in self._reference]
        if all(seen.sum() < 2 for seen in self._seen):
            raise InputError(
                f"the W8A8 frames show no person: fewer than two joints of every frame score "
                f"{MIN_SCORE} or more; expected a clip (and a box) with somebody in it"
            )

    def score(self, outputs: Iterable[Pose]) -> float:
        """See `Judge`."""
        pck = PCK(len(self._reference[0]), JOINT_DISTANCE)
        for pose, points, seen in zip(outputs, self._reference, self._seen, strict=True):
            if seen.sum() >= 2:
                size = max(box_size(points, seen), 1.0)
                pck.update(pose.keypoints, points, size, seen)
        labelled, found = pck.counts.sum(0)
        return 100 * float(found / labelled)


class MaskAgreement:
    """The mean of J and F of every object against the W8A8 masks: object ids uint8 [H, W].

    The first frame, whose masks are given, is left out.

    Raises:
        InputError: there is one frame only.
    """

    measure = "J&F against W8A8's masks"
    baseline = 100.0

    def __init__(self, reference: Sequence[Ids]) -> None:
        if len(reference) < 2:
            raise InputError("the clip has one frame, whose masks are given; expected two or more")
        self._reference = reference
        self._objects = [int(i) for i in np.unique(reference[0]) if i]

    def score(self, outputs: Iterable[Ids]) -> float:
        """See `Judge`."""
        scores: list[float] = []
        for index, (found, same) in enumerate(zip(outputs, self._reference, strict=True)):
            for i in self._objects if index else ():
                a, b = found == i, same == i
                scores.append((region_similarity(a, b) + boundary_accuracy(a, b)) / 2)
        return 100 * float(np.mean(scores))


class LabelledMiou:
    """mIoU against labels, of the frames that have one.

    Args:
        reference: class ids uint8 [H, W] of the W8A8 frames.
        labels: class ids uint8 [H, W] by index of the frame.
        num_classes, ignore_index: see `ConfusionMatrix`.

    Raises:
        InputError: a label fits no frame, has another size or an unknown class, or no pixel of
            them can be scored.
    """

    measure = "mIoU"

    def __init__(
        self,
        reference: Sequence[Ids],
        labels: Mapping[int, Ids],
        num_classes: int,
        ignore_index: int | None,
    ) -> None:
        outside = sorted(set(labels) - set(range(len(reference))))
        if outside or not labels:
            raise InputError(
                f"the labels are of the frames {outside[:5] or 'none'}; expected at least one, "
                f"and all from 0 to {len(reference) - 1}"
            )
        self._labels, self._num_classes, self._ignore = labels, num_classes, ignore_index
        self.baseline = self.score(reference)
        if not np.isfinite(self.baseline):
            raise InputError("no pixel of the labels can be scored: all have the ignored value")

    def score(self, outputs: Iterable[Ids]) -> float:
        """See `Judge`."""
        matrix = ConfusionMatrix(self._num_classes, self._ignore)
        for index, found in enumerate(outputs):
            if index in self._labels:
                matrix.update(found, self._labels[index])
        return 100 * matrix.miou()
