from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_core.world import JOINTS, portrait
from resq_core.world.people import Posture, Walker, gait, joints_of

LENGTHS = {  # of a limb, in heights
    ("hip", "knee"): 0.245,
    ("knee", "ankle"): 0.243,
    ("shoulder", "elbow"): 0.172,
    ("elbow", "wrist"): 0.152,
}


def walker(seed: int) -> Walker:
    return Walker.dressed(np.random.default_rng(seed), 1, 0.0, 5.0, 0.3 * seed, 0.37 * seed)


def limb(joints: NDArray[np.float64], side: str, ends: tuple[str, str]) -> float:
    a, b = (joints[JOINTS.index(f"{side}_{end}")] for end in ends)
    return float(np.linalg.norm(a - b))


@pytest.mark.parametrize("seed", range(12))
def test_limbs_keep_their_length_in_every_posture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    upright, posed = walker(seed), replace(walker(seed), posture=Posture.drawn(rng))
    for who in (upright, posed):
        joints = joints_of(who)
        assert min(joints[:, 1]) >= 0  # nobody sinks into the ground
        for ends, length in LENGTHS.items():
            for side in ("right", "left"):
                # arms and legs go some centimetres sidewards, too
                assert limb(joints, side, ends) == pytest.approx(length * who.height, rel=0.1)


def test_the_gait_is_a_posture() -> None:
    who = walker(3)
    assert np.array_equal(joints_of(replace(who, posture=gait(who))), joints_of(who))


def test_arms_go_where_they_are_held() -> None:
    arms = {"arms": (math.pi, 0.0), "elbows": (0.0, math.pi / 2), "spread": (0.0, 0.0)}
    still = Posture(thighs=(0.0, 0.0), knees=(0.0, 0.0), **arms)  # type: ignore[arg-type]
    joints = joints_of(replace(walker(1), heading=0.0, posture=still))
    right, left = (
        {end: joints[JOINTS.index(f"{side}_{end}")] for end in ("shoulder", "elbow", "wrist")}
        for side in ("right", "left")
    )
    assert right["wrist"][1] > right["elbow"][1] > right["shoulder"][1]  # up in the air
    assert left["wrist"][1] == pytest.approx(left["elbow"][1])  # straight ahead
    assert left["wrist"][2] > left["elbow"][2] + 0.1


def test_a_portrait_is_that_of_its_generator() -> None:
    background = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    one, same, other = (portrait(background, 96, np.random.default_rng(s)) for s in (4, 4, 5))
    assert np.array_equal(one.image, same.image)
    assert np.array_equal(one.joints, same.joints)
    assert not np.array_equal(one.image, other.image)
    assert (one.image.shape, one.image.dtype) == ((96, 96, 3), np.uint8)
    assert (one.joints.shape, one.joints.dtype) == ((15, 2), np.float32)
    assert (one.visible.shape, one.visible.dtype) == ((15,), np.bool_)


def test_visible_joints_are_on_somebody() -> None:
    background = np.full((50, 50, 3), (0, 255, 0), np.uint8)
    shown = hidden = away = 0
    for seed in range(30):
        found = portrait(background, 128, np.random.default_rng(seed))
        green = (found.image.astype(int) - (0, 255, 0)).__abs__().max(2) < 40
        for (x, y), visible in zip(found.joints, found.visible, strict=True):
            shown, hidden = shown + bool(visible), hidden + (not visible)
            if visible:
                away += bool(green[int(y), int(x)])
    assert shown > 300
    assert hidden > 10
    assert away <= shown * 0.03  # beside the edge of a limb
