from __future__ import annotations

import json
from pathlib import Path

import pytest

from resq_core.tasks import CAMVID11, CITYSCAPES19, LabelSet


@pytest.mark.parametrize(("name", "ours"), [("camvid11", CAMVID11), ("cityscapes19", CITYSCAPES19)])
def test_names_colours_and_void_are_the_recorded_ones(
    shared: Path, name: str, ours: LabelSet
) -> None:
    want = json.loads((shared / "golden" / "labels.json").read_text())["classes"][name]
    assert list(ours.classes) == want["names"]
    assert [list(colour) for colour in ours.palette] == want["palette"]
    assert ours.ignore_index == want["ignore_index"]
