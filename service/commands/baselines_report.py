"""The table of baselines for people, and its plot."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["print_rows", "write_plot"]

_MOST_DISTANCES = 8
_MARKERS = {
    "float": "*",
    "frame": "s",
    "mixed": "D",
    "hold": "x",
    "resq": "o",
    "skip-conv": "^",
    "warping": "v",
    "oracle": "P",
    "random": "+",
}


def print_rows(content: Mapping[str, Any]) -> None:
    """A rich table: mIoU in percent, GBOPs per frame with what is not the network's beside it."""
    rows = content["rows"]
    shown = min(max(len(row["by_distance"]) for row in rows), _MOST_DISTANCES)
    numbers = ("mIoU", "pixels", "GBOPs", "own", "bits", *(f"+{i}" for i in range(shown)))
    table = Table("row")
    for name in numbers:
        table.add_column(name, no_wrap=True)
    for row in rows:
        known = row["by_distance"][:shown]
        table.add_row(
            " ".join(filter(None, (row["method"], row["precision"], row["setting"]))),
            f"{100 * row['miou']:.2f}",
            f"{100 * row['pixel_accuracy']:.2f}",
            f"{(row['bops'] + row['policy_bops']) / 1e9:.1f}",
            f"{row['policy_bops'] / 1e9:.1f}" if row["policy_bops"] else "",
            f"{row['mean_bits']:.2f}",
            *("" if value is None else f"{100 * value:.1f}" for value in known),
        )
    Console().print(table)
    options = content["options"]
    typer.echo(
        f"{options['frames']} frames of {options['split']}, T = {options['period']}, backend "
        f"{options['backend']}; own: of the GBOPs, the policy's, the gates' or the flow's; +1: "
        "mIoU of frames that are one after their keyframe"
    )


def write_plot(content: Mapping[str, Any], path: Path) -> None:
    """Write a PNG: mIoU against GBOPs per frame, where matplotlib is there."""
    if find_spec("matplotlib") is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in content["rows"]:
        lines.setdefault(_line(row), []).append(row)
    for index, (label, rows) in enumerate(lines.items()):
        points = sorted(((r["bops"] + r["policy_bops"]) / 1e9, 100 * r["miou"]) for r in rows)
        joined = "-" if rows[0]["method"] not in ("random", "mixed") else ""
        axes.plot(
            *zip(*points, strict=True),
            linestyle=joined,
            lw=1,
            marker=_MARKERS[rows[0]["method"]],
            color=f"C{index % 10}",
            label=label,
        )
    axes.set_xscale("log")
    axes.set_xlabel("GBOPs per frame, the policy's, the gates' and the flow's own included")
    axes.set_ylabel("mIoU, percent")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path)


def _line(row: Mapping[str, Any]) -> str:
    """What a row is drawn with: its method, and for ResQ its reference and whether it chooses."""
    if row["method"] == "resq":
        reference, _, threshold = row["setting"].partition(", ")
        return f"{'Dynamic-ResQ' if threshold else 'ResQ'}, {reference}"
    if row["method"] == "skip-conv":
        return f"skip-conv {row['precision']}"
    return str(row["method"])
