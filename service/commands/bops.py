"""`resq bops`: the paper's BOP tables beside ours."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from service.commands.shared import Json, print_json

__all__ = ["bops"]


def bops(
    as_json: Json = False,
) -> None:
    """Recompute the paper's bit operations, under both ways of counting layers."""
    from resq_core.paper_tables import compare_with_paper

    with Console(stderr=True).status("counting the paper's networks"):
        rows = list(compare_with_paper())
    if as_json:
        print_json(rows)
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
