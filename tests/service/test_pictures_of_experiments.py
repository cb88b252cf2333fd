"""Charts and sheets by themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from service.charts import Bars, Line, Lines, draw_bars, draw_lines
from service.sheets import draw_bits, draw_sheet


def test_the_same_chart_is_the_same_file_and_gaps_are_gaps(tmp_path: Path) -> None:
    gap = Line("gap", [(0, 1.0), (1, None), (2, 3.0)], ["a", "b", "c"])
    whole = Line("gap", [(0, 1.0), (1, 2.0), (2, 3.0)], ["a", "b", "c"])
    for name, line in (("one", gap), ("two", gap), ("other", whole)):
        chart = Lines("title", "x", "y", [line], [("level", 2.0)], whole=True)
        draw_lines([chart, chart], tmp_path / f"{name}.png")
    one, two, other = ((tmp_path / f"{n}.svg").read_bytes() for n in ("one", "two", "other"))
    assert one == two != other


def test_bars_that_are_missing(tmp_path: Path) -> None:
    for name, values in (("all", [50.0, 60.0]), ("some", [50.0, None])):
        draw_bars(Bars("y", ["a", "b"], [("bar", values)], zoom=True), tmp_path / f"{name}.png")
    assert (tmp_path / "all.svg").read_bytes() != (tmp_path / "some.svg").read_bytes()


def test_a_sheet_holds_its_pictures_where_they_belong(tmp_path: Path) -> None:
    red, blue = (np.full((4, 6, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    draw_sheet(
        ["a\nb", "c"], [("x", [red, blue]), ("y", [blue, red])], tmp_path / "s.png", (40, 60)
    )
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    for colour in ((255, 0, 0), (0, 0, 255)):
        found = (sheet == colour).all(-1)
        assert found.sum() == 2 * 40 * 60
    quarter = sheet[: sheet.shape[0] // 2, : sheet.shape[1] // 2]
    assert (quarter == (255, 0, 0)).all(-1).any()
    assert not (quarter == (0, 0, 255)).all(-1).any()


def test_bits_have_three_colours() -> None:
    colours = draw_bits(np.array([[0, 4, 8]], np.uint8))[0].tolist()
    assert colours == [[26, 30, 44], [38, 148, 152], [250, 226, 110]]
