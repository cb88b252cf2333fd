from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_core.errors import InputError
from resq_core.tasks import Box, Pose
from resq_core.tuning import LabelledMiou, MaskAgreement, PixelAgreement, PoseAgreement

BOX = Box(0, 0, 100, 200)


def halves(left: int, right: int) -> NDArray[np.uint8]:
    ids = np.full((4, 6), left, np.uint8)
    ids[:, 3:] = right
    return ids


def pose(*points: tuple[float, float, float]) -> Pose:
    return Pose(np.array(points, np.float32), BOX)


def test_pixels() -> None:
    judge = PixelAgreement([halves(0, 1), halves(1, 1)])
    assert judge.score([halves(0, 1), halves(1, 1)]) == judge.baseline == 100
    assert judge.score([halves(0, 2), halves(1, 1)]) == 75


def test_joints_count_where_the_person_is_seen() -> None:
    # 200 pixels high: 10 pixels are the distance; the third joint is not seen
    judge = PoseAgreement([pose((50, 0, 0.9), (50, 200, 0.9), (0, 0, 0.1)), pose(*[(0, 0, 0)] * 3)])
    lost = pose(*[(500, 500, 0.9)] * 3)
    assert judge.score([pose((50, 9, 0.9), (50, 200, 0), (90, 90, 1)), lost]) == 100
    assert judge.score([pose((50, 11, 0.9), (50, 200, 0), (0, 0, 0.1)), lost]) == 50
    with pytest.raises(InputError, match="show no person"):
        PoseAgreement([pose((0, 0, 0.9), (0, 0, 0.1))])


def test_objects_count_after_the_first_frame() -> None:
    judge = MaskAgreement([halves(0, 2), halves(0, 2), halves(0, 2)])
    assert judge.score([halves(9, 9), halves(0, 2), halves(0, 2)]) == 100
    assert judge.score([halves(0, 2), halves(0, 2), halves(0, 0)]) == 50
    with pytest.raises(InputError, match="two or more"):
        MaskAgreement([halves(0, 1)])


def test_labels_are_compared_on_their_frames() -> None:
    frames = [halves(0, 1), halves(0, 0), halves(1, 1)]
    judge = LabelledMiou(frames, {1: halves(0, 1)}, 2, 255)
    assert judge.baseline == 25  # 12 of 24 pixels of class 0, none of class 1
    assert judge.score([halves(1, 0), halves(0, 1), halves(1, 0)]) == 100


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "expected at least one"),
        ({3: halves(0, 1)}, r"frames \[3\]; expected .* from 0 to 2"),
        ({0: halves(0, 9)}, "the label holds 9"),
        ({0: np.zeros((2, 2), np.uint8)}, r"the label \(2, 2\)"),
        ({0: halves(255, 255)}, "no pixel of the labels"),
    ],
)
def test_labels_that_do_not_fit(labels: dict[int, NDArray[np.uint8]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LabelledMiou([halves(0, 1)] * 3, labels, 2, 255)
