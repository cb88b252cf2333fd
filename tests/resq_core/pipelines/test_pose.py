"""Pose through a stream: when the crop moves, and what that costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resq_core
from resq_core.errors import InputError, OptionError, StreamClosedError
from resq_core.evaluation import PCK, box_size
from resq_core.models.hrnet import HRNetPlan, PoseHRNet
from resq_core.pipelines import Pipeline, PosePipeline
from resq_core.tasks import JHMDB15, Box, JointSet, Pose, PoseTask
from resq_core.world import JOINTS, Street
from tests.resq_core.models.golden import fill

SIZE = (240, 320)
START = Box(100, 100, 40, 60)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
MARKED = JointSet(("neck", "right_ankle", "left_ankle"), (), (0, 2, 1), (RED, GREEN, BLUE), ())
TASK = PoseTask(MARKED, (64, 64), (0, 0, 0), (1, 1, 1))
NARROW = HRNetPlan(4, ((1, 1), (2, 1), (1, 2)), stem_width=8, stem_blocks=1, upsampling="nearest")


class Markers(nn.Module):
    """Knows a pose where it is marked: each heatmap is how red, green or blue it is nearby."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 3, 9, stride=4, padding=4, bias=False)
        slope = 5 - (torch.arange(9.0) - 4).abs()
        with torch.no_grad():
            self.look.weight.zero_()
            for joint in range(3):
                self.look.weight[joint, joint] = torch.outer(slope, slope) / slope.sum() ** 2

    def forward(self, x: Tensor) -> Tensor:
        heatmaps: Tensor = self.look(x)
        return heatmaps


def marked(points: np.ndarray, size: tuple[int, int] = SIZE, side: int = 5) -> np.ndarray:
    """A black picture with a red, a green and a blue square around points [3, 2] (x, y)."""
    image = np.zeros((*size, 3), np.uint8)
    for channel, (x, y) in enumerate(np.rint(points).astype(int)):
        top, left = max(y - side // 2, 0), max(x - side // 2, 0)
        image[top : max(y + side // 2 + 1, 0), left : max(x + side // 2 + 1, 0), channel] = 255
    return image


def person(x: float = 120, y: float = 100) -> np.ndarray:
    return np.array([(x, y), (x - 8, y + 50), (x + 8, y + 50)])


@lru_cache(maxsize=1)
def calibrated() -> resq_core.QuantizedModel:
    q = resq_core.quantize(Markers(), "W8A8->W8A8", reference="tracking")
    crop = TASK.crop_of(START)
    clip = [TASK.preprocess(marked(person(110 + i, 100 + i)), crop) for i in range(8)]
    q.calibrate([clip], samples=8, also=["W8A8", "W8A8->W8A0"])
    return q


def pipeline(
    box: Box | None = START, follow: bool = True, period: int = 4, precision: str = "W8A8->W8A8"
) -> PosePipeline:
    stream = calibrated().with_precision(precision).stream(period=period)
    return PosePipeline(stream, TASK, box, follow, min_score=0.1)


def assert_near(p: PosePipeline, pose: Pose, points: np.ndarray) -> None:
    """Within the quarter of a cell that a heatmap leaves open, and half a pixel of the drawing."""
    assert p.crop is not None
    open_pixels = 0.25 * p.crop.width / TASK.heatmap_size[1] + 0.5
    np.testing.assert_allclose(pose.keypoints[:, :2], points, atol=open_pixels)


def walk(seed: int, instance: int, frames: int) -> Iterator[np.ndarray]:
    """Where a walker of the street has its neck and its ankles."""
    marks = [JOINTS.index(name) for name in MARKED.names]
    street = Street(seed, camera="static")
    for t in range(frames):
        (found,) = (p for p in street.frame(t).people if p.instance == instance)
        yield found.joints[marks]


def test_a_walker_is_followed_over_several_periods() -> None:
    points = list(walk(0, 12, 25))
    assert points[0][0, 0] - points[-1][0, 0] > 50  # more than the crop's half width
    score, still = PCK(3, alpha=0.05), PCK(3, alpha=0.05)
    start = Box(float(points[0][:, 0].min()) - 15, float(points[0][0, 1]) - 5, 40, 55)
    follows, stays = pipeline(start), pipeline(start, follow=False)
    crops = []
    for i, joints in enumerate(points):
        image = marked(joints, (360, 480))
        result = follows.step(image)
        assert isinstance(result.output, Pose)
        assert (result.is_anchor, result.reason) == (
            (True, "period" if i else "first_frame") if i % 4 == 0 else (False, None)
        )
        crops.append(follows.crop)
        score.update(result.output.keypoints, joints, box_size(joints))
        still.update(stays.step(image).output.keypoints, joints, box_size(joints))
    assert score.mean() == 1
    assert still.mean() < 0.8
    for i, crop in enumerate(crops):
        assert crop == crops[i - i % 4]  # it stays between keyframes
    assert len(set(crops)) == 7  # and moves at each


def test_a_still_crop_forces_no_keyframe() -> None:
    p = pipeline(follow=False, period=100)
    first = p.step(marked(person()))
    assert first.reason == "first_frame"
    for i in range(1, 6):
        p.move(START)  # a client that repeats itself
        result = p.step(marked(person(120 + i)))
        assert not result.is_anchor
        assert result.output.box == START
    assert p.totals.anchors == 1


def test_a_box_from_the_client_takes_effect_at_the_next_frame_and_is_a_keyframe() -> None:
    p = pipeline(period=100)
    image = marked(person())
    p.step(image)
    p.move(Box(0, 0, 1, 1))
    p.move(Box(90, 90, 60, 70))  # the last one counts
    moved = p.step(image, anchor="asked")
    assert (moved.is_anchor, moved.reason) == (True, "crop_moved")
    assert moved.output.box == Box(90, 90, 60, 70)
    assert_near(p, moved.output, person())
    assert p.step(image).reason is None
    p.move(None)
    whole = p.step(image)
    assert (whole.reason, whole.output.box) == ("crop_moved", Box(0, 0, 320, 240))


def test_without_a_box_the_whole_picture_is_looked_at_and_then_the_person() -> None:
    p = pipeline(box=None, period=2)
    image = marked(person(), side=21)
    assert p.crop is None
    boxes = [p.step(image).output.box for _ in range(4)]
    assert boxes[:2] == [Box(0, 0, 320, 240)] * 2
    assert boxes[2].width < 100
    assert boxes[2] == boxes[3]


@pytest.mark.parametrize("box", [None, START])
def test_when_the_person_leaves_the_crop_goes_back(box: Box | None) -> None:
    p = pipeline(box, period=2)
    for x in (120, 125, 130, 135):
        p.step(marked(person(x), side=21))
    assert p.crop is not None
    assert p.crop.box != box
    empty = np.zeros((*SIZE, 3), np.uint8)
    # the joints of the last frame still lead there once
    reasons = [p.step(empty).reason for _ in range(3)]
    assert reasons == ["period", None, "period"]
    assert p.crop.box == (box or Box(0, 0, 320, 240))


def test_a_keyframe_that_is_asked_for_lets_the_crop_follow() -> None:
    p = pipeline(period=100)
    before = p.step(marked(person())).output.box
    result = p.step(marked(person()), anchor="asked")
    assert result.reason == "asked"
    assert result.output.box != before


def test_single_frames_follow_at_each() -> None:
    p = pipeline(precision="W8A8")
    boxes = [p.step(marked(person(120 + 10 * i))).output.box for i in range(6)]
    assert len(set(boxes)) == 6


def test_holding_repeats_the_joints_of_the_keyframe() -> None:
    p = pipeline(precision="W8A8->W8A0", follow=False)
    first, second = p.step(marked(person())), p.step(marked(person(140)))
    np.testing.assert_array_equal(first.output.keypoints, second.output.keypoints)


@pytest.mark.parametrize("follow", [True, False])
def test_another_size_is_a_keyframe_and_boxes_keep_their_place(follow: bool) -> None:
    p = pipeline(follow=follow, period=100)
    p.step(marked(person()))
    result = p.step(marked(person() * 2, (480, 640), side=11))
    assert (result.is_anchor, result.reason) == (True, "size_changed")
    assert_near(p, result.output, person() * 2)
    assert (result.output.box == Box(200, 200, 80, 120)) is not follow
    assert not p.step(marked(person() * 2, (480, 640), side=11)).is_anchor
    p.move(START)  # the client's box is in pixels of the frame that comes
    back = p.step(marked(person()))
    assert (back.reason, back.output.box) == ("size_changed", START)


def test_a_box_outside_the_picture_costs_one_frame() -> None:
    p = pipeline(period=100, follow=False)
    image = marked(person())
    p.step(image)
    p.move(Box(400, 10, 30, 40))
    message = "the box is 30x40 at (400, 10), outside the picture of 320x240 pixels"
    with pytest.raises(InputError, match=re.escape(message)):
        p.step(image)
    after = p.step(image)
    assert (after.index, after.reason, after.output.box) == (1, None, START)


def test_a_first_box_outside_the_picture() -> None:
    p = pipeline(Box(-50, 0, 50, 50))
    with pytest.raises(InputError, match="outside the picture"):
        p.step(marked(person()))
    result = p.step(marked(person()))
    assert (result.index, result.reason) == (0, "first_frame")
    assert result.output.box == Box(0, 0, 320, 240)


def test_a_box_partly_outside_is_fine() -> None:
    p = pipeline(Box(-30, 60, 60, 130))
    points = np.array([(4.0, 100.0), (2.0, 150.0), (12.0, 150.0)])
    assert_near(p, p.step(marked(points)).output, points)


def test_a_frame_that_is_no_picture_changes_nothing() -> None:
    p = pipeline(period=100)
    p.step(marked(person()))
    p.move(Box(90, 90, 60, 70))
    with pytest.raises(InputError, match="picture"):
        p.step(np.zeros((4, 4), np.uint8))
    result = p.step(marked(person()))
    assert (result.index, result.reason) == (1, "crop_moved")


def test_options() -> None:
    with pytest.raises(OptionError, match="min_score"):
        PosePipeline(calibrated().stream(), TASK, min_score=float("nan"))
    p: Pipeline = pipeline()
    p.update(period=2, threshold=0.5)
    assert (p.options.period, p.options.policy.threshold) == (2, 0.5)
    assert str(p.precision) == "W8A8->W8A8"


def test_an_hrnet_end_to_end() -> None:
    net = PoseHRNet(NARROW, len(JHMDB15)).eval()
    fill(net)
    task = PoseTask(JHMDB15, (64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = [Street(0, camera="static").frame(t).image for t in range(6)]
    box = Box(260, 145, 80, 60)
    clip = torch.cat([task.preprocess(image, task.crop_of(box)) for image in images])
    q = resq_core.quantize(net, "W8A8->W8A{0,4,8}", period=3, example=clip[:1])
    q.calibrate([clip], samples=4, points=4)
    p = PosePipeline(q.stream(), task, box, follow=False)
    for i, image in enumerate(images):
        result = p.step(image, bit_map=True, layers=True)
        assert isinstance(result.output, Pose)
        assert result.output.keypoints.shape == (15, 3)
        assert np.isfinite(result.output.keypoints).all()
        assert result.is_anchor == (i % 3 == 0)
        assert result.bit_map is not None
        assert result.bit_map.shape == (8, 8)
        assert result.layers is not None
        assert sum(layer.macs for layer in result.layers) == sum(q.macs(clip[:1]).values())
        if not result.is_anchor:
            assert 0 < result.bops.frame < result.bops.w8a8
    assert p.totals.anchors == 2
    dense = PosePipeline(q.with_precision("W8A8").stream(), task, box, follow=False)
    again = p.step(images[0])
    np.testing.assert_array_equal(again.output.keypoints, dense.step(images[0]).output.keypoints)
    assert p.nbytes > 0
    p.close()
    assert p.nbytes == 0
    with pytest.raises(StreamClosedError):
        p.step(images[0])
