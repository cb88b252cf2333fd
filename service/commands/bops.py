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
        table.add_row(
            row["table"],
            row["row"],
            row["counting"],
            row["unit"],
            f"{row['paper']}",
            f"{row['ours']:.3f}",
            f"{row['relative']:+.1%}",
        )
    Console().print(table)
