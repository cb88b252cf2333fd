from __future__ import annotations

import json
from pathlib import Path

import pytest

from resq_core.bops import static_bops
from resq_core.paper_clips import DAVIS16, DAVIS17
from resq_core.paper_tables import compare_with_paper


@pytest.mark.timeout(600)
def test_every_row_of_the_golden_table_is_there_and_ours_agree(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "bops.json").read_text())["rows"]
    ours = {(r["table"], r["row"], r["counting"]): r for r in compare_with_paper()}
    assert len(ours) == 2 * len(golden)
    for row in golden:
        for counting, field in (("all", "all_convs"), ("paper", "paper_like")):
            entry = ours[row["table"], row["row"], counting]
            assert entry["paper"] == row["paper"]
            assert entry["ours"] == pytest.approx(row[field], rel=1e-3)


def test_the_clips_have_the_known_totals() -> None:
    assert sum(clip.frames for clip in DAVIS17) == 1999
    assert sum(clip.objects for clip in DAVIS17) == 61
    assert sum(clip.frames for clip in DAVIS16) == 1376
    assert len(DAVIS16) == 20


def test_a_partial_last_window_has_its_own_keyframe() -> None:
    whole = static_bops(3, (8, 8), (4, 4), 3)
    assert whole == 64 + 2 * 16
    assert static_bops(3, (8, 8), (4, 4), 3, frames=6) == whole
    assert static_bops(4, (8, 8), (4, 4), 3, frames=4) == 2 * 64 + 2 * 16
