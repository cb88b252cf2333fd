"""What an experiment leaves: a table or JSON on stdout, a folder with JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from service.commands.shared import print_json

__all__ = ["Drawing", "gbops", "percent", "report", "run_name", "score_table"]

Drawing = Callable[[Path], None]
"""Writes the picture of an experiment to the path of a PNG."""


def percent(value: float | None) -> str:
    """A share as percent; nothing for None."""
    return "" if value is None else f"{100 * value:.2f}"


def gbops(row: Mapping[str, Any]) -> float:
    """Bit operations per frame with the policy's, in 10^9."""
    total: float = (row["bops"] + row["policy_bops"]) / 1e9
    return total


def run_name(row: Mapping[str, Any]) -> str:
    """A run's method and precision."""
    return "float" if row["method"] == "float" else f"{row['method']} {row['precision']}"


def score_table(rows: Sequence[Mapping[str, Any]], measure: str) -> Table:
    """Runs with their accuracy and cost."""
    table = Table("", "precision", "T", measure, "GBOPs / frame", "mean bits")
    for row in rows:
        table.add_row(
            row["method"],
            row["precision"],
            str(row["period"]),
            percent(row["miou"]),
            f"{gbops(row):.1f}",
            f"{row['mean_bits']:.2f}",
        )
    return table


def report(
    name: str,
    content: Mapping[str, Any],
    table: Table,
    out: Path | None,
    as_json: bool,
    charts: Drawing | None = None,
    sheet: Drawing | None = None,
) -> None:
    """Print, and write where a folder was asked for.

    Args:
        name: of the experiment, and of its files: NAME.json, NAME.png and NAME.svg.
        content: what the JSON holds beside that name.
        table: for people.
        out: the folder, which is made.
        as_json: print JSON instead of the table.
        charts: draws NAME.png and NAME.svg, where matplotlib is installed.
        sheet: draws NAME.png, or NAME_maps.png where there are charts as well.
    """
    whole = {"experiment": name, **content}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(whole, indent=1), "utf-8")
        if sheet is not None:
            sheet(out / (f"{name}.png" if charts is None else f"{name}_maps.png"))
        if charts is not None and find_spec("matplotlib") is None:
            typer.echo("no chart: matplotlib is missing; pip install 'resq[bench]'", err=True)
        elif charts is not None:
            charts(out / f"{name}.png")
    if as_json:
        print_json(whole)
        return
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 110)
    console.print(table)
