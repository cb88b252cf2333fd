"""What `resq tune` found: as a table, as JSON with a plot, as a line to paste, as a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from resq_core import QuantizedModel
from resq_core.pipelines import QuantizedStm
from resq_core.tuning import Bench, Curve, Judge, LayerTuning, Point
from resq_core.zoo import ModelCard
from service.commands.saving import save_model
from service.plots import plot_curve

__all__ = ["as_options", "curve_content", "in_words", "print_curve", "save_tuned", "write_curve"]


def as_options(point: Point) -> str:
    """A setting as options of `resq run`."""
    return (
        f'--precision "{point.precision}" --period {point.period} --policy relative '
        f"--threshold {point.threshold:.4g}"
    )


def in_words(fitted: LayerTuning) -> str:
    """What factors per layer did on the second half, in one line."""
    single, layered = fitted.single, fitted.layered
    verdict = "they pay" if fitted.pays else "they do not pay, and are left out"
    return (
        f"factors by layer, on the second half of the frames: drop {single.drop:.2f} -> "
        f"{layered.drop:.2f}, active {single.active_fraction:.2f} -> "
        f"{layered.active_fraction:.2f}, BOPs saved {single.saving:.1%} -> {layered.saving:.1%}: "
        f"{verdict}"
    )


def print_curve(curve: Curve, bench: Bench) -> None:
    """The curve as a table."""
    judge = bench.judge
    typer.echo(f"drop: points of {judge.measure}; W8A8 frames score {judge.baseline:.2f}")
    table = Table("precision", "T", "ρ", "drop", "bits", "active", "BOPs saved", "ms", "")
    for point in (*curve.points, *curve.hold):
        is_hold = point.precision.is_hold
        table.add_row(
            str(point.precision),
            str(point.period),
            "hold" if is_hold else f"{point.threshold:.4g}",
            f"{point.drop:.2f}",
            f"{point.mean_bits:.2f}",
            f"{point.active_fraction:.2f}",
            f"{point.saving:.1%}",
            f"{point.ms:.0f}",
            _mark(curve, point),
        )
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 100)
    console.print(table)
    if curve.best is not None and curve.w8a8_ms is not None:
        typer.echo(
            f"best: {curve.best.ms:.0f} ms per frame beside {curve.w8a8_ms:.0f} ms for W8A8 "
            f"frames, measured in turn on this machine ({bench.backend})"
        )


def _mark(curve: Curve, point: Point) -> str:
    if point == curve.best:
        return "best"
    return "" if curve.goal.met(point) else "over"


def curve_content(
    facts: dict[str, Any], curve: Curve, judge: Judge, fitted: LayerTuning | None
) -> dict[str, Any]:
    """The curve as JSON holds it, behind facts about the clip."""
    content = facts | {
        "goal": {str(curve.goal.limit): curve.goal.value},
        "drop_is": judge.measure,
        "w8a8_score": judge.baseline,
        "w8a8_ms": curve.w8a8_ms,
        "best": None if curve.best is None else _plain(curve.best),
        "points": [_plain(point) for point in curve.points],
        "hold": [_plain(point) for point in curve.hold],
    }
    if fitted is not None:
        content["layers"] = {
            "factors": dict(fitted.factors),
            "pays": fitted.pays,
            "single": _plain(fitted.single),
            "layered": _plain(fitted.layered),
        }
    return content


def write_curve(path: Path, content: dict[str, Any]) -> None:
    """The curve as a file, and a plot of it beside where matplotlib is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), "utf-8")
    if find_spec("matplotlib") is not None:
        plot_curve(content, path.with_suffix(".png"))


def _plain(point: Point) -> dict[str, Any]:
    """A point as JSON holds it."""
    return asdict(point) | {"precision": str(point.precision), "saving": point.saving}


def save_tuned(
    out: Path,
    model: QuantizedModel | QuantizedStm,
    card: ModelCard,
    best: Point,
    factors: Mapping[str, float],
    how: str,
) -> None:
    """Write a model whose defaults are the best setting; a folder gets a card as well."""
    options = model.options.but(
        period=best.period, policy="relative", threshold=best.threshold, factors=factors or None
    )
    tuned = model.with_precision(best.precision).with_options(options)
    first = str(best.precision)
    changes = {
        "training": f"{card.training} Period and threshold {how}.",
        "precisions": (first, *(p for p in card.precisions if p != first)),
    }
    save_model(out, tuned, card.model_copy(update=changes))
    typer.echo(f"{out}: T = {best.period}, ρ = {best.threshold:.4g}")
