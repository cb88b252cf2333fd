"""`resq experiment classes`: accuracy of each class on residual frames (Fig. 11)."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.charts import Bars, draw_bars
from service.commands.experiments.options import ClipPath, Frames, Labels, ModelName, Out
from service.commands.experiments.report import percent, report, run_name
from service.commands.shared import Json, Policy, Reference, Threshold, frames_bar

__all__ = ["classes"]


def classes(
    clip: ClipPath,
    labels: Labels = None,
    model: ModelName = "street",
    precision: Annotated[str, typer.Option(help="With residual frames.")] = "W8A8->W4A4",
    period: Annotated[int, typer.Option(help="T.", min=2)] = 3,
    reference: Reference = None,
    policy: Policy = None,
    threshold: Threshold = None,
    frames: Frames = 32,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fig. 11: IoU of each class for float, frame quantization, hold and ResQ.

    All are scored on the frames that are residual frames of ResQ.
    """
    from resq_core.experiments.steps import residual_precision
    from service.commands.experiments.setting import open_setting, score

    parsed = residual_precision(precision)
    options = {"reference": reference, "policy": policy, "threshold": threshold}
    with frames_bar(Console(stderr=True)) as bar:
        setting = open_setting(clip, labels, model, frames, bar)
        trial = setting.trial.without_keyframes(period)
        runs = [
            trial.float(),
            trial.frame(parsed),
            trial.hold(parsed, period),
            trial.resq(parsed, period, **options),
        ]
        rows = score(trial, runs, bar)
    content: dict[str, Any] = {**setting.facts, "period": period, "options": options, "runs": rows}
    names = [
        name
        for name in setting.trial.task.classes
        if any(row["iou"][name] is not None for row in rows)
    ]
    table = Table("class", *map(run_name, rows))
    for name in names:
        table.add_row(name, *(percent(row["iou"][name]) for row in rows))
    table.add_row("mean", *(percent(row["miou"]) for row in rows), style="bold")
    bars = [
        (
            run_name(row),
            [None if row["iou"][n] is None else 100 * row["iou"][n] for n in names],
        )
        for row in rows
    ]
    against = setting.measure.replace("mIoU", "IoU")
    chart = Bars(f"{against}, %", names, bars)
    report("classes", content, table, out, as_json, lambda path: draw_bars(chart, path))
