from __future__ import annotations

import json
from pathlib import Path

import pytest

from resq_core import zoo
from resq_core.errors import UnknownModelError
from resq_core.paper_tables import compare_with_paper


@pytest.mark.timeout(600)
def test_every_row_of_the_golden_table_is_there_and_ours_agree(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "bops.json").read_text())["rows"]
    ours = {(r["table"], r["row"], r["counting"]): r for r in compare_with_paper()}
    assert len(ours) == 2 * len(golden)
    built = 0
    for row in golden:
        for counting, field in (("all", "all_convs"), ("paper", "paper_like")):
            entry = ours[row["table"], row["row"], counting]
            assert entry["paper"] == row["paper"]
            if entry["ours"] is None:
                assert "not built yet" in entry["note"]
                continue
            built += 1
            assert entry["ours"] == pytest.approx(row[field], rel=1e-3)
    assert built >= 12  # the six DDRNet rows


def test_the_zoo_lists_what_it_loads() -> None:
    assert "street" in zoo.names()
    card = zoo.card("street")
    q = zoo.load("street", card.precisions[1])
    assert str(q.precision) == card.precisions[1]
    for precision in card.precisions:
        q.with_precision(precision)
    assert len(card.classes) == len(card.palette) == 11
    with pytest.raises(UnknownModelError, match="street"):
        zoo.card("../secrets")
