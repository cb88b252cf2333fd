"""`resq bops`: the paper's BOP tables beside ours."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from resq_core.paper_tables import compare_with_paper

__all__ = ["bops"]


def bops(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Recompute the paper's bit operations, under both ways of counting layers."""
    rows = list(compare_with_paper())
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("table", "row", "counting", "unit", "paper", "ours", "relative")
    for row in rows:
        ours = row.get("note", "") if row["ours"] is None else f"{row['ours']:.3f}"
        relative = "" if row["relative"] is None else f"{row['relative']:+.1%}"
        table.add_row(
            row["table"],
            row["row"],
            row["counting"],
            row["unit"],
            f"{row['paper']}",
            ours,
            relative,
        )
    Console().print(table)
