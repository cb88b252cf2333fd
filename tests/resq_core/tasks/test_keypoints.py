from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from resq_core.errors import OptionError
from resq_core.tasks import AIC14, COCO17, JHMDB15, MPII16, JointSet
from resq_core.world import JOINTS

SETS = {"coco17": COCO17, "mpii16": MPII16, "jhmdb15": JHMDB15, "aic14": AIC14}


@pytest.mark.parametrize("name", SETS)
def test_joints_are_the_recorded_ones(shared: Path, name: str) -> None:
    want = json.loads((shared / "golden" / "labels.json").read_text())["keypoints"][name]
    ours = SETS[name]
    assert len(ours) == want["count"]
    assert list(ours.names) == want["names"]
    assert [list(pair) for pair in ours.skeleton] == want["skeleton"]
    assert list(ours.flip) == want["flip"]
    assert [list(colour) for colour in ours.colours] == want["joint_colors"]
    assert [list(colour) for colour in ours.link_colours] == want["link_colors"]


@pytest.mark.parametrize("name", SETS)
def test_left_and_right_change_places(name: str) -> None:
    joints = SETS[name]
    for index, partner in enumerate(joints.flip):
        side, _, part = joints.names[index].partition("_")
        other = {"left": "right", "right": "left"}.get(side)
        want = f"{other}_{part}" if other else joints.names[index]
        assert joints.names[partner] == want


def test_the_streets_joints_come_in_the_order_of_jhmdb() -> None:
    assert [name.replace("face", "head") for name in JOINTS] == list(JHMDB15.names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ()}, "names"),
        ({"names": ("a", "a", "c")}, "names"),
        ({"skeleton": ((0, 3),)}, r"\(0, 3\)"),
        ({"skeleton": ((1, 1),)}, r"\(1, 1\)"),
        ({"skeleton": ((0, -1),)}, r"\(0, -1\)"),
        ({"flip": (0, 1)}, "flip"),
        ({"flip": (0, 0, 2)}, "flip"),
        ({"flip": (1, 2, 0)}, "twice mirrored"),
        ({"colours": ((0, 0, 0),)}, "1 colours given for 3 joints"),
        ({"colours": ((0, 0, 0), (0, 0, 256), (0, 0, 0))}, "256"),
        ({"link_colours": ()}, "0 colours given for 1 pairs"),
    ],
)
def test_a_set_that_contradicts_itself(changes: dict[str, Any], message: str) -> None:
    good = JointSet(("a", "b", "c"), ((0, 1),), (1, 0, 2), ((0, 0, 0),) * 3, ((9, 9, 9),))
    with pytest.raises(OptionError, match=message):
        replace(good, **changes)


def test_a_set_is_a_value() -> None:
    with pytest.raises(FrozenInstanceError):
        COCO17.flip = ()  # type: ignore[misc]
    assert hash(COCO17) != hash(MPII16)
