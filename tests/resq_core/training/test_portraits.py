from __future__ import annotations

import numpy as np
import pytest
import torch

from resq_core.errors import InputError
from resq_core.tasks import JHMDB15, Box, PoseTask
from resq_core.training import PortraitSource, heatmap_error
from resq_core.training.portraits import heatmaps_of
from resq_core.world import portrait

TASK = PoseTask(JHMDB15, (64, 96), (0.5,) * 3, (0.25,) * 3)
BACKGROUND = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


def test_heatmaps_are_decoded_to_their_joints() -> None:
    crop = TASK.crop_of(Box(30.0, 20.0, 40.0, 60.0))
    rng = np.random.default_rng(1)
    joints = np.stack((rng.uniform(25, 75, 15), rng.uniform(20, 80, 15)), 1).astype(np.float32)
    joints[3] = (crop.x + crop.width, 50.0)  # outside
    maps = heatmaps_of(joints, crop, TASK.heatmap_size)
    assert maps.shape == (15, 16, 24)
    assert maps[3].isnan().all()
    inside = [i for i in range(15) if i != 3]
    assert 0.85 < maps[inside].amax((1, 2)).min() <= maps[inside].max() <= 1.0
    found = TASK.decode(maps.nan_to_num()[None], crop).keypoints[inside, :2]
    cell = crop.width / TASK.heatmap_size[1]
    assert np.abs(found - joints[inside]).max() <= cell / 2 + 1e-3


def test_a_batch_shows_people_at_their_heatmaps() -> None:
    source = PortraitSource([BACKGROUND], portrait, TASK)
    one, same = (source.batch(6, torch.Generator().manual_seed(2)) for _ in range(2))
    assert one.labels is not None
    assert same.labels is not None
    assert torch.equal(one.frames[0], same.frames[0])
    assert one.frames[0].shape == (6, 3, 64, 96)
    assert one.labels[0].shape == (6, 15, 16, 24)
    counted = ~one.labels[0].isnan().all((2, 3))
    assert counted.float().mean() > 0.7  # most joints of most people are in the crop


def test_heatmaps_that_do_not_count() -> None:
    wanted = torch.zeros(1, 3, 4, 5)
    wanted[:, 1] = torch.nan
    heatmaps = torch.full((1, 3, 4, 5), 2.0, requires_grad=True)
    assert heatmap_error(heatmaps, wanted).item() == pytest.approx(4.0)
    heatmap_error(heatmaps, wanted).backward()
    assert heatmaps.grad is not None
    assert heatmaps.grad[0, 1].abs().max() == 0
    assert heatmap_error(heatmaps, torch.full_like(wanted, torch.nan)).item() == 0


def test_a_joint_weighs_as_much_as_what_is_around_it() -> None:
    wanted = torch.zeros(1, 1, 8, 8)
    wanted[0, 0, 3, 3] = 1.0
    missed, doubled = torch.zeros_like(wanted), torch.ones_like(wanted)
    assert heatmap_error(missed, wanted).item() == pytest.approx((1 + 64) / 64)
    assert heatmap_error(doubled, wanted).item() == pytest.approx(63 / 64)


def test_no_picture_is_an_error() -> None:
    with pytest.raises(InputError, match="0 pictures given"):
        PortraitSource([], portrait, TASK)
