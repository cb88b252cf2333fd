from __future__ import annotations

from dataclasses import FrozenInstanceError
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resq_core.errors import InputError, OptionError
from resq_core.tasks import COCO17, JHMDB15, Box, Crop, Pose, PoseTask, flip_test, next_box
from resq_core.world import Person, Street

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def task(**changes: Any) -> PoseTask:
    options: dict[str, Any] = {
        "joints": JHMDB15,
        "input_size": (256, 192),
        "mean": MEAN,
        "std": STD,
    }
    return PoseTask(**{**options, **changes})


def gaussians(points: np.ndarray, size: tuple[int, int], sigma: float = 2.0) -> Tensor:
    """Heatmaps [1, K, *size] with a peak of 1 at each point [K, 2] (x, y), in cells."""
    y, x = np.mgrid[: size[0], : size[1]]
    squares = (x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2
    return torch.tensor(np.exp(-squares / (2 * sigma**2)))[None]


def around(joints: np.ndarray, pad: float = 4.0) -> Box:
    low, high = joints.min(0) - pad, joints.max(0) + pad
    return Box(float(low[0]), float(low[1]), *(float(side) for side in high - low))


@lru_cache(maxsize=1)
def people() -> tuple[Person, ...]:
    frames = [Street(seed, camera="static").frame(t) for seed, t in ((0, 15), (3, 60), (7, 30))]
    return tuple(p for f in frames for p in f.people if p.visible.all() and np.ptp(p.joints) > 20)


@pytest.mark.parametrize("size", [(256, 192), (256, 256), (64, 64)])
def test_drawn_people_come_back_from_perfect_heatmaps(size: tuple[int, int]) -> None:
    pose_task = task(input_size=size)
    assert len(people()) >= 8
    errors = []
    for person in people():
        crop = pose_task.crop_of(around(person.joints))
        cells = crop.from_image(person.joints, pose_task.heatmap_size)
        assert (cells > 1.5).all()
        assert (cells < np.array(pose_task.heatmap_size)[::-1] - 1.5).all()
        pose = pose_task.decode(gaussians(cells, pose_task.heatmap_size), crop)
        assert pose.box == crop.box
        cell = crop.width / pose_task.heatmap_size[1]
        error = (pose.keypoints[:, :2] - person.joints) / cell
        # a quarter of a cell is what a maximum and a quarter step cannot tell apart
        assert np.abs(error).max() <= 0.2501
        assert np.abs(error * cell).mean() < 1  # pixels
        assert (pose.keypoints[:, 2] > 0.93).all()
        errors.append(error)
    assert np.abs(np.concatenate(errors).mean(0)).max() < 0.03  # no side is favoured


@pytest.mark.parametrize(
    "box",
    [
        Box(-60, -40, 100, 130),
        Box(400, 300, 300, 200),
        Box(100.3, 100.7, 2, 3),
        Box(5, 5, 400, 3),
        Box(200, -500, 2, 1000),
    ],
    ids=str,
)
def test_every_box_leads_back_to_its_own_points(box: Box) -> None:
    pose_task = task()
    crop = pose_task.crop_of(box)
    rng = np.random.default_rng(4)
    cells = rng.uniform(2, np.array(pose_task.heatmap_size)[::-1] - 3, (15, 2))
    pose = pose_task.decode(gaussians(cells, pose_task.heatmap_size), crop)
    cell = crop.width / pose_task.heatmap_size[1]
    want = crop.to_image(cells, pose_task.heatmap_size)
    assert np.abs(pose.keypoints[:, :2] - want).max() <= 0.2501 * cell + 1e-4
    assert crop.to_image(np.array([24.0, 32.0]), (64, 48)) == pytest.approx(
        [box.x + box.width / 2, box.y + box.height / 2]
    )


def test_decoding_by_hand() -> None:
    pose_task = task(joints=COCO17, input_size=(32, 32))
    maps = torch.zeros(1, 17, 8, 8)
    maps[0, 0, 4, 3], maps[0, 0, 4, 4], maps[0, 0, 3, 3] = 0.9, 0.5, 0.2  # right, up
    maps[0, 1, 4, 3] = 0.8  # no slope, no step
    maps[0, 2, 1, 1], maps[0, 2, 1, 2] = 0.7, 0.5  # beside the border: no step
    maps[0, 3, 7, 7] = 0.6
    maps[0, 4, 2:5, 2:5] = 0.4  # several are equal: the first, then down and right
    maps[0, 5] = -1.0  # nothing above 0
    maps[0, 5, 4, 4] = -0.5
    maps[0, 7, 4, 1], maps[0, 7, 4, 2], maps[0, 7, 5, 1] = 0.7, 0.5, 0.5
    maps[0, 8, 1, 4], maps[0, 8, 2, 4], maps[0, 8, 1, 5] = 0.7, 0.5, 0.5
    pose = pose_task.decode(maps, Crop(100, 50, 8, 8, Box(0, 0, 1, 1)))  # a cell is a pixel
    points = [(3.25, 3.75), (3, 4), (1, 1), (7, 7), (2.25, 2.25), (0, 0), (0, 0), (1, 4), (4, 1)]
    scores = [0.9, 0.8, 0.7, 0.6, 0.4, -0.5, 0, 0.7, 0.7]
    np.testing.assert_allclose(pose.keypoints[:9, :2], np.add(points, (96, 46)), atol=1e-5)
    np.testing.assert_allclose(pose.keypoints[:9, 2], scores, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 14, 64, 48), (2, 15, 64, 48), (1, 15, 48, 64), (15, 64, 48)])
def test_heatmaps_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \[1, 15, 64, 48\]"):
        task().decode(torch.zeros(shape), task().crop_of(Box(0, 0, 9, 9)))


def test_heatmaps_that_are_not_finite() -> None:
    maps = torch.zeros(1, 15, 64, 48)
    maps[0, 3, 5, 5] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        task().decode(maps, task().crop_of(Box(0, 0, 9, 9)))


def test_the_networks_input() -> None:
    image = np.full((40, 50, 3), (10, 120, 250), np.uint8)
    image.flags.writeable = False
    x = task().preprocess(image, task().crop_of(Box(20, 10, 9, 12)))
    assert x.shape == (1, 3, 256, 192)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    want = (torch.tensor([10, 120, 250]) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert (x - want.view(1, 3, 1, 1)).abs().max() < 1e-5
    outside = task().preprocess(image, task().crop_of(Box(500, 10, 9, 12)))
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    assert (outside - black.view(1, 3, 1, 1)).abs().max() < 1e-5
    with pytest.raises(InputError, match="picture is float64"):
        task().preprocess(np.zeros((4, 4, 3)), task().crop_of(Box(0, 0, 9, 9)))  # type: ignore[arg-type]


def test_a_flip_test_is_the_average_by_hand() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 15, 3, stride=4, padding=1)
    x = torch.randn(1, 3, 24, 32)
    with torch.no_grad():
        plain, mirrored = network(x)[0], network(torch.tensor(x.numpy()[..., ::-1].copy()))[0]
        got, unshifted = flip_test(network, x, JHMDB15), flip_test(network, x, JHMDB15, shift=False)
    for joint, partner in enumerate(JHMDB15.flip):
        for column in range(8):
            back = mirrored[partner, :, 7 - column]
            torch.testing.assert_close(
                unshifted[0, joint, :, column], (plain[joint, :, column] + back) / 2
            )
            back = mirrored[partner, :, 7 - max(column - 1, 0)]
            torch.testing.assert_close(
                got[0, joint, :, column], (plain[joint, :, column] + back) / 2
            )


def test_a_flip_test_of_another_joint_set() -> None:
    with pytest.raises(InputError, match=r"expected \[1, 17, h, w\]"):
        flip_test(lambda x: x, torch.zeros(1, 3, 8, 8), COCO17)


def posed(points: list[tuple[float, float, float]]) -> Pose:
    return Pose(np.array(points, np.float32), Box(0, 0, 1, 1))


def test_the_next_box_is_around_what_was_seen_and_inside_the_picture() -> None:
    seen = [(100.0, 50.0, 0.9), (120.0, 150.0, 0.2), (110.0, 90.0, 0.5)]
    assert next_box(posed([*seen, (400.0, 400.0, 0.19)]), (480, 640)) == Box(90, 40, 40, 120)
    assert next_box(posed(seen), (100, 105)) == Box(90, 40, 15, 60)
    assert next_box(posed(seen), (480, 640), min_score=0.6) == Box(96, 46, 8, 8)
    for person in people():
        pose = Pose(np.column_stack((person.joints, np.ones(15))), Box(0, 0, 1, 1))
        box = next_box(pose, (360, 480))
        assert box is not None
        assert (person.joints >= (box.x, box.y)).all()
        assert (person.joints <= (box.x + box.width, box.y + box.height)).all()


def test_who_is_gone_has_no_next_box() -> None:
    few = [(50.0, 50.0, 0.9)] + [(60.0, 60.0, 0.1)] * 4
    assert next_box(posed(few), (480, 640)) is None  # one of five is less than a quarter
    assert next_box(posed(few[:4]), (480, 640)) is not None
    assert next_box(posed([(900.0, 50.0, 0.9)] * 4), (480, 640)) is None
    assert next_box(posed([(-4.0, 50.0, 0.9)] * 4), (480, 640)) is None


def test_a_pose_is_a_value() -> None:
    source = np.zeros((15, 3), np.float64)
    pose = Pose(source, Box(0, 0, 1, 1))  # type: ignore[arg-type]
    source[:] = 1
    assert pose.keypoints.dtype == np.float32
    assert not pose.keypoints.any()
    with pytest.raises(ValueError, match="read-only"):
        pose.keypoints[0, 0] = 1
    with pytest.raises(FrozenInstanceError):
        pose.box = Box(0, 0, 2, 2)  # type: ignore[misc]
    with pytest.raises(InputError, match=r"expected \[K, 3\]"):
        Pose(np.zeros((15, 2), np.float32), Box(0, 0, 1, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": (0, 16)}, "input_size"),
        ({"input_size": (256, 190)}, "multiples of 4"),
        ({"mean": (0.0, 0.0)}, "mean"),
        ({"std": (1.0, 1.0, 0.0)}, "std"),
    ],
)
def test_options_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        task(**changes)
