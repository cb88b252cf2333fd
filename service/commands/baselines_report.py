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
_NEAR = 8.0  # points of mIoU below the best that the plot's larger half shows
_COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"),
    *("#bcbd22", "#17becf", "#393b79", "#637939", "#8c6d31", "#843c39", "#7b4173", "#3182bd"),
    *("#31a354", "#e6550d", "#756bb1", "#636363"),
)
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
    shown = min(content["options"]["period"], _MOST_DISTANCES)
    numbers = ("mIoU", "pixels", "GBOPs", "own", "bits", *(f"+{i}" for i in range(shown)))
    table = Table("row")
    for name in numbers:
        table.add_column(name, no_wrap=True)
    for row in content["rows"]:
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
    """Write a PNG, where matplotlib is there: mIoU against GBOPs per frame, all of it and the part
    that costs at most what the dearest frame quantization does and is near the best."""
    if find_spec("matplotlib") is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, width_ratios=(1, 1.7))
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in content["rows"]:
        lines.setdefault(_line(row), []).append(row)
    for index, (label, rows) in enumerate(lines.items()):
        points = sorted((_gbops(row), 100 * row["miou"]) for row in rows)
        method = rows[0]["method"]
        swept = method == "skip-conv" or label.startswith("Dynamic")
        for ax in axes:
            ax.plot(
                *zip(*points, strict=True),
                linestyle="-" if swept else "",
                lw=1,
                marker=_MARKERS[method],
                ms=6,
                color=_COLOURS[index % len(_COLOURS)],
                alpha=0.8,
                label=label,
            )
            ax.grid(alpha=0.3)
    axes[0].set_xscale("log")
    axes[0].set_ylabel("mIoU, percent")
    axes[0].set_title("all", fontsize=10)
    dearest = max(_gbops(row) for row in content["rows"] if row["method"] == "frame")
    best = max(100 * row["miou"] for row in content["rows"])
    axes[1].set_xlim(0, 1.05 * dearest)
    axes[1].set_ylim(best - _NEAR, best + 0.05 * _NEAR)
    axes[1].set_title("up to the dearest frame quantization", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside right upper")
    figure.supxlabel("GBOPs per frame, the policy's, the gates' and the flow's own included")
    figure.savefig(path)


def _gbops(row: Mapping[str, Any]) -> float:
    return float(row["bops"] + row["policy_bops"]) / 1e9


def _line(row: Mapping[str, Any]) -> str:
    """What a row is drawn with: its method, and for ResQ its reference and whether it chooses."""
    if row["method"] == "resq":
        reference, _, threshold = row["setting"].partition(", ")
        return (
            f"Dynamic-ResQ {row['precision']}, {reference}" if threshold else f"ResQ, {reference}"
        )
    if row["method"] == "skip-conv":
        return f"skip-conv {row['precision']}"
    return str(row["method"])
