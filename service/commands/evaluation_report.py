"""What `resq eval` prints for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from resq_core.evaluation import DataSet
from resq_core.evaluation.datasets import Protocol

__all__ = ["print_report"]

_MOST_DISTANCES = 10
_MOST_SKIPPED = 5


def print_report(result: Mapping[str, Any], data: DataSet, rows: Sequence[str]) -> None:
    """Accuracy and cost by row, accuracy by distance, and what was left out.

    Args:
        result: as `resq eval --json` prints it.
        data: what was scored.
        rows: in order.
    """
    figures = _accuracy(data)
    table = Table("", *figures, "GBOPs / frame", "mean bits", "bits of residual frames")
    for name in rows:
        row = result[name]
        spent = (row["bops"] + row["policy_bops"]) / 1e9
        cost = (f"{spent:.1f}", f"{row['mean_bits']:.2f}", _text(row["residual_bits"], 1, 2))
        table.add_row(name, *(_text(_at(row, path)) for path in figures.values()), *cost)
    Console().print(table)
    over_time = [name for name in ("hold", "resq") if name in rows]
    if data.task != "vos" and over_time:
        _print_distances(result, over_time)
    for name, reason in result["left_out"].items():
        typer.echo(f"no row {name}: {reason}")
    if result["skipped"]:
        typer.echo(f"{len(result['skipped'])} of {len(data.clips)} clips left out:")
    for skipped in result["skipped"][:_MOST_SKIPPED]:
        typer.echo(f"  {skipped['clip']}: {skipped['reason']}")
    truth = "the model in float" if result["truth"] == "float" else "labels"
    typer.echo(f"{result['clips']} clips against {truth}; backend: {result['backend']}")


def _accuracy(data: DataSet) -> dict[str, tuple[str, ...]]:
    """Where a row has the figures of its task, by their names."""
    if data.task == "pose":
        return {"PCK": ("pck",)}
    if data.task == "vos":
        statistics = [(m, f) for m in ("J", "F") for f in ("mean", "recall", "decay")]
        return {"J&F": ("JF",), **{" ".join(path): path for path in statistics}}
    if data.protocol is Protocol.SPARSE:
        return {"mIoU": ("miou_over_distances",)}
    return {"mIoU": ("miou",), "pixels": ("pixel_accuracy",)}


def _at(row: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = row
    for key in path:
        value = value[key]
    return None if value is None else float(value)


def _text(value: float | None, scale: float = 100, digits: int = 1) -> str:
    return "" if value is None else f"{scale * value:.{digits}f}"


def _print_distances(result: Mapping[str, Any], names: Sequence[str]) -> None:
    """Accuracy of frames by how far they are from their keyframe (Fig. 9), as far as fits."""
    longest = max(len(result[name]["by_distance"]) for name in names)
    table = Table("frames after the keyframe", *map(str, range(min(longest, _MOST_DISTANCES))))
    for name in names:
        table.add_row(name, *map(_text, result[name]["by_distance"][:_MOST_DISTANCES]))
    Console().print(table)
