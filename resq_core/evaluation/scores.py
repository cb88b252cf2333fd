"""A task's metric over any number of clips, as plain values between them.

Each score takes frames one at a time, gives what it counted of a clip as a record that JSON can
hold, and takes such records back: that an evaluation was interrupted changes no figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from resq_core.evaluation.datasets.clips import Joints, ObjectMasks
from resq_core.evaluation.davis import Statistics, boundary_accuracy, region_similarity
from resq_core.evaluation.miou import ConfusionMatrix
from resq_core.evaluation.pck import PCK, box_size
from resq_core.tasks.pictures import Picture
from resq_core.tasks.pose import Pose

__all__ = ["ObjectScore", "PoseScore", "Score", "SegmentationScore"]

ALPHA = 0.2
"""Of PCK, in longer sides of the box around the person's joints, as JHMDB is scored."""


class Score(Protocol):
    """Accuracy of one task."""

    def add(self, output: Any, label: Any, distance: int) -> None:
        """Count a frame that came `distance` frames after its keyframe.

        Raises:
            InputError: output and label do not fit; nothing is counted then.
        """
        ...

    def record(self) -> dict[str, Any]:
        """What was counted, as plain values."""
        ...

    def merge(self, record: Mapping[str, Any]) -> None:
        """Add what `record` gave."""
        ...

    def means(self) -> dict[str, Any]:
        """The figures; None for those that nothing was counted for."""
        ...


class SegmentationScore:
    """mIoU of class ids uint8 [H, W], over all frames and by distance to the keyframe.

    Args:
        classes: names by class id.
        ignore_index: label value that is not scored.
    """

    def __init__(self, classes: Sequence[str], ignore_index: int | None) -> None:
        self.classes, self._ignore = tuple(classes), ignore_index
        self.by_distance: list[ConfusionMatrix] = []

    def _matrix(self, distance: int) -> ConfusionMatrix:
        while len(self.by_distance) <= distance:
            self.by_distance.append(ConfusionMatrix(len(self.classes), self._ignore))
        return self.by_distance[distance]

    @property
    def total(self) -> ConfusionMatrix:
        """Counts over all distances."""
        matrix = ConfusionMatrix(len(self.classes), self._ignore)
        for own in self.by_distance:
            matrix.merge(own.counts)
        return matrix

    def add(self, output: Picture, label: Picture, distance: int) -> None:
        """See `Score`."""
        self._matrix(distance).update(output, label)

    def record(self) -> dict[str, Any]:
        """See `Score`."""
        return {"counts": [matrix.counts.tolist() for matrix in self.by_distance]}

    def merge(self, record: Mapping[str, Any]) -> None:
        """See `Score`."""
        for distance, counts in enumerate(record["counts"]):
            self._matrix(distance).merge(np.asarray(counts, np.int64))

    def means(self) -> dict[str, Any]:
        """`miou` and `pixel_accuracy` of all pixels together, `iou` by class; `by_distance`, the
        mIoU of frames 0, 1, 2, … after their keyframe, and `miou_over_distances`, its mean."""
        total = self.total
        near = [_known(matrix.miou()) for matrix in self.by_distance]
        return {
            "miou": _known(total.miou()),
            "miou_over_distances": _mean([value for value in near if value is not None]),
            "pixel_accuracy": _known(total.pixel_accuracy()),
            "iou": {
                name: _known(value) for name, value in zip(self.classes, total.iou(), strict=True)
            },
            "by_distance": near,
        }


class PoseScore:
    """PCK of `Pose` against `Joints`: joints within 0.2 of the person's longer side.

    A frame whose labelled joints give the person no size is not scored.

    Args:
        joints: names by index.
    """

    def __init__(self, joints: Sequence[str]) -> None:
        self._joints = tuple(joints)
        self._by_distance: list[PCK] = []
        self._left_out = {"joints_not_labelled": 0, "frames_without_person": 0}

    def _pck(self, distance: int) -> PCK:
        while len(self._by_distance) <= distance:
            self._by_distance.append(PCK(len(self._joints), ALPHA))
        return self._by_distance[distance]

    def add(self, output: Pose, label: Joints, distance: int) -> None:
        """See `Score`."""
        if label.scored:
            size = box_size(label.points, label.labelled)
            self._pck(distance).update(output.keypoints, label.points, size, label.labelled)
        self._left_out["frames_without_person"] += not label.scored
        self._left_out["joints_not_labelled"] += int((~label.labelled).sum())

    def record(self) -> dict[str, Any]:
        """See `Score`."""
        return {"counts": [pck.counts.tolist() for pck in self._by_distance]} | self._left_out

    def merge(self, record: Mapping[str, Any]) -> None:
        """See `Score`."""
        for distance, counts in enumerate(record["counts"]):
            self._pck(distance).merge(np.asarray(counts, np.int64))
        for name in self._left_out:
            self._left_out[name] += record[name]

    def means(self) -> dict[str, Any]:
        """`pck`, the mean over joints, `per_joint`, `by_distance`; joints and frames left out."""
        total = PCK(len(self._joints), ALPHA)
        for own in self._by_distance:
            total.merge(own.counts)
        names = zip(self._joints, total.per_joint(), strict=True)
        return {
            "pck": _known(total.mean()),
            "per_joint": {name: _known(value) for name, value in names},
            "by_distance": [_known(pck.mean()) for pck in self._by_distance],
        } | self._left_out


class ObjectScore:
    """J and F of object ids uint8 [H, W] against `ObjectMasks`, as DAVIS reports them."""

    def __init__(self) -> None:
        self._now: dict[int, tuple[list[float], list[float]]] = {}
        self._objects: list[tuple[Statistics, Statistics]] = []

    def add(self, output: Picture, label: ObjectMasks, distance: int) -> None:
        """See `Score`; frames of one clip, in order."""
        pairs = [(i, output == i, label.ids == i) for i in label.objects]
        found = [(i, region_similarity(a, b), boundary_accuracy(a, b)) for i, a, b in pairs]
        for i, region, contour in found:
            regions, contours = self._now.setdefault(i, ([], []))
            regions.append(region)
            contours.append(contour)

    def record(self) -> dict[str, Any]:
        """See `Score`; J and F of each object on each frame."""
        return {"series": [list(series) for series in self._now.values()]}

    def merge(self, record: Mapping[str, Any]) -> None:
        """See `Score`."""
        for regions, contours in record["series"]:
            self._objects.append((Statistics.of(regions), Statistics.of(contours)))

    def means(self) -> dict[str, Any]:
        """`J` and `F`: their mean, recall and decay, means over objects; `JF`, the mean of both
        means; how many `objects`."""
        found: dict[str, Any] = {
            name: {
                figure: _mean([getattr(statistics[which], figure) for statistics in self._objects])
                for figure in ("mean", "recall", "decay")
            }
            for which, name in enumerate(("J", "F"))
        }
        both = [found[name]["mean"] for name in ("J", "F") if self._objects]
        return {"JF": _mean(both), **found, "objects": len(self._objects)}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
