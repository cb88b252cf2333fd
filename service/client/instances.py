"""What a result shows, thing by thing, in the conventions of the `supervision` library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Instances", "instances_of_mask", "instances_of_pose"]


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """N classes, objects or persons of one frame; the names are those of `supervision.Detections`.

    Attributes:
        xyxy: float32 [N, 4], left, top, right, bottom in pixels; of a mask its outermost pixels,
            both inclusive.
        mask: bool [N, H, W]; None of poses.
        class_id: int64 [N]: class ids; object ids; 0 for persons.
        confidence: float32 [N], 0 to 1: the mean score of a person's joints; None of masks, which
            come without.
        tracker_id: int64 [N], ids of objects that are followed; None of others.
        class_name: str [N].
    """

    xyxy: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    class_id: NDArray[np.int64]
    confidence: NDArray[np.float32] | None
    tracker_id: NDArray[np.int64] | None
    class_name: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.xyxy)


def instances_of_mask(
    ids: NDArray[np.uint8], classes: Sequence[str], objects: bool = False
) -> Instances:
    """One instance for each class in a mask, or each object.

    Args:
        ids: uint8 [H, W].
        classes: names by id.
        objects: ids are those of objects, and 0 is the background.
    """
    counts = np.bincount(ids.ravel(), minlength=256)
    found = [i for i in np.flatnonzero(counts).tolist() if not (objects and i == 0)]
    masks = [ids == i for i in found]
    numbers = np.array(found, np.int64)
    return Instances(
        xyxy=np.array([_box(mask) for mask in masks], np.float32).reshape(-1, 4),
        mask=np.stack(masks) if masks else np.zeros((0, *ids.shape), np.bool_),
        class_id=numbers,
        confidence=None,
        tracker_id=numbers.copy() if objects else None,
        class_name=np.array(
            [classes[i] if i < len(classes) else f"object {i}" for i in found], np.str_
        ),
    )


def instances_of_pose(
    keypoints: NDArray[np.float32], box: tuple[float, float, float, float]
) -> Instances:
    """The person of a pose.

    Args:
        keypoints: float32 [J, 3], x, y in pixels and a score.
        box: x, y, width and height of where it was looked for.
    """
    x, y, width, height = box
    return Instances(
        xyxy=np.array([[x, y, x + width, y + height]], np.float32),
        mask=None,
        class_id=np.zeros(1, np.int64),
        confidence=np.clip(keypoints[:, 2].mean(keepdims=True), 0, 1).astype(np.float32),
        tracker_id=None,
        class_name=np.array(["person"], np.str_),
    )


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
