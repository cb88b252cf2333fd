"""`resq experiment tradeoff`: accuracy against bit operations, sweeping T (Fig. 5 and 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from service.charts import Line, Lines, draw_lines
from service.commands.experiments.options import ClipPath, Frames, Labels, ModelName, Out
from service.commands.experiments.report import gbops, report, score_table
from service.commands.shared import Json, Policy, Reference, Threshold, frames_bar

if TYPE_CHECKING:
    from resq_core import Precision
    from resq_core.experiments import Run, Trial

__all__ = ["tradeoff"]


def tradeoff(
    clip: ClipPath,
    labels: Labels = None,
    model: ModelName = "street",
    precision: Annotated[
        list[str] | None, typer.Option(help="Again for more; W8A8->W8A4 and W8A8->W8A{0,4,8}.")
    ] = None,
    period: Annotated[list[int] | None, typer.Option(help="T, again for more; 2, 4, 6, 8.")] = None,
    reference: Reference = None,
    policy: Policy = None,
    threshold: Threshold = None,
    frames: Frames = 32,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fig. 5, 7: accuracy against BOPs, sweeping T, for frame quantization, hold and ResQ."""
    from resq_core.experiments.steps import residual_precision
    from service.commands.experiments.setting import open_setting, score

    asked = precision or ["W8A8->W8A4", "W8A8->W8A{0,4,8}"]
    precisions = [residual_precision(text) for text in asked]
    options = {"reference": reference, "policy": policy, "threshold": threshold}
    with frames_bar(Console(stderr=True)) as bar:
        setting = open_setting(clip, labels, model, frames, bar)
        runs = _runs(setting.trial, precisions, period or [2, 4, 6, 8], options)
        rows = score(setting.trial, runs, bar)
    content = {**setting.facts, "options": options, "runs": rows}
    chart = _chart(rows, setting.measure)
    table = score_table(rows, setting.measure)
    report("tradeoff", content, table, out, as_json, lambda path: draw_lines([chart], path))


def _runs(
    trial: Trial, precisions: Sequence[Precision], periods: Sequence[int], options: dict[str, Any]
) -> list[Run]:
    from resq_core.experiments.steps import keyframe_precision

    runs = [trial.float()]
    runs += [trial.frame(p) for p in map(keyframe_precision, precisions)]
    runs += [trial.frame(p) for p in precisions]
    runs += [trial.hold(p, t) for p in precisions for t in periods]
    runs += [trial.resq(p, t, **options) for p in precisions for t in periods]
    return list({(run.method, run.precision, run.period): run for run in runs}.values())


def _chart(rows: Iterable[Mapping[str, Any]], measure: str) -> Lines:
    lines: dict[str, list[Mapping[str, Any]]] = {}
    levels: list[tuple[str, float]] = []
    for row in rows:
        if row["method"] == "float":
            levels.append(("float", 100 * row["miou"]))
        else:
            frame = row["method"] == "frame quantization"
            label = row["method"] if frame else f"{row['method']} {row['precision']}"
            lines.setdefault(label, []).append(row)
    return Lines(
        title="",
        x="GBOPs per frame, the policy's own included",
        y=f"{measure}, %",
        lines=[_line(label, found) for label, found in lines.items()],
        levels=levels,
    )


def _line(label: str, rows: list[Mapping[str, Any]]) -> Line:
    rows = sorted(rows, key=gbops)
    frame = rows[0]["method"] == "frame quantization"
    return Line(
        label,
        [(gbops(row), 100 * row["miou"]) for row in rows],
        [row["precision"] if frame else f"T={row['period']}" for row in rows],
        baseline=frame,
    )
