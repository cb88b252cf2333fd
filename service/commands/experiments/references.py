"""`resq experiment references`: pairwise, recurrent and tracking residuals over T (Fig. 12)."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.charts import Line, Lines, draw_lines
from service.commands.experiments.options import ClipPath, Frames, Labels, ModelName, Out
from service.commands.experiments.report import percent, report
from service.commands.shared import Json, frames_bar

__all__ = ["references"]

_NAMES = {
    "keyframe": "keyframe (pairwise, the paper's)",
    "previous": "previous (recurrent)",
    "tracking": "tracking (ours)",
}


def references(
    clip: ClipPath,
    labels: Labels = None,
    model: ModelName = "street",
    precision: Annotated[
        list[str] | None, typer.Option(help="Again for more; W8A8->W4A8 and W8A8->W8A4.")
    ] = None,
    period: Annotated[
        list[int] | None, typer.Option(help="T, again for more; 2, 4, 8, 16.")
    ] = None,
    frames: Frames = 32,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fig. 12: residuals against the keyframe, the frame before, and what was transmitted."""
    from resq_core.experiments.steps import residual_precision
    from resq_core.residual import Reference
    from service.commands.experiments.setting import open_setting, score

    precisions = [residual_precision(text) for text in precision or ["W8A8->W4A8", "W8A8->W8A4"]]
    periods = sorted(set(period or [2, 4, 8, 16]))
    with frames_bar(Console(stderr=True)) as bar:
        setting = open_setting(clip, labels, model, frames, bar)
        keys = [(p, r, t) for p in precisions for r in Reference for t in periods]
        runs = [setting.trial.resq(p, t, reference=str(r)) for p, r, t in keys]
        rows = score(setting.trial, runs, bar)
    content: dict[str, Any] = dict(setting.facts)
    content["runs"] = [
        {"reference": str(r), **row} for (_, r, _), row in zip(keys, rows, strict=True)
    ]
    table = Table("precision", "reference", *(f"T = {t}" for t in periods))
    charts = []
    for p in precisions:
        lines = []
        for r in Reference:
            found = [row["miou"] for key, row in zip(keys, rows, strict=True) if key[:2] == (p, r)]
            table.add_row(str(p), _NAMES[r], *map(percent, found))
            points = [(t, 100 * value) for t, value in zip(periods, found, strict=True)]
            lines.append(Line(_NAMES[r], points))
        charts.append(Lines(str(p), "T, frames per keyframe", f"{setting.measure}, %", lines))
    report("references", content, table, out, as_json, lambda path: draw_lines(charts, path))
