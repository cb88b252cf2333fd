"""`resq experiment distance`: accuracy by distance to the keyframe (Fig. 9)."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.charts import Line, Lines, draw_lines
from service.commands.experiments.options import ClipPath, Frames, Labels, ModelName, Out
from service.commands.experiments.report import percent, report, run_name
from service.commands.shared import Json, Policy, Threshold, frames_bar

__all__ = ["distance"]


def distance(
    clip: ClipPath,
    labels: Labels = None,
    model: ModelName = "street",
    precision: Annotated[
        list[str] | None, typer.Option(help="May be given again; W8A8->W4A4.")
    ] = None,
    period: Annotated[int, typer.Option(help="T: distances are 0 to T - 1.", min=2)] = 10,
    reference: Annotated[
        list[str] | None, typer.Option(help="May be given again; keyframe and tracking.")
    ] = None,
    policy: Policy = None,
    threshold: Threshold = None,
    frames: Frames = 32,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fig. 9: accuracy by distance to the keyframe.

    The clip is run T times, with keyframes at other places, so that frames from T - 1 on are
    scored at every distance.
    """
    from resq_core.experiments.steps import residual_precision
    from service.commands.experiments.setting import open_setting, score

    precisions = [residual_precision(text) for text in precision or ["W8A8->W4A4"]]
    references = reference or ["keyframe", "tracking"]
    with frames_bar(Console(stderr=True)) as bar:
        setting = open_setting(clip, labels, model, frames, bar)
        trial = setting.trial
        flat = [trial.float(), *(trial.frame(p) for p in dict.fromkeys(precisions))]
        flat_rows = score(trial, flat, bar)
        moving = {"hold": trial.hold(precisions[0], period)}
        for p in precisions:
            for r in references:
                run = trial.resq(p, period, reference=r, policy=policy, threshold=threshold)
                moving[f"{run.method} {p}, {r}"] = run
        rows = score(trial, list(moving.values()), bar, phases=range(period))
    content: dict[str, Any] = {**setting.facts, "period": period}
    content["levels"] = flat_rows
    content["runs"] = [{"label": label, **row} for label, row in zip(moving, rows, strict=True)]
    lines = [
        Line(row["label"], _points(row["by_distance"]), baseline=row["method"] == "hold")
        for row in content["runs"]
    ]
    levels = [(run_name(row), 100 * row["miou"]) for row in flat_rows]
    chart = Lines(
        "", "frames after the keyframe", f"{setting.measure}, %", lines, levels, whole=True
    )
    table = Table("frames after the keyframe", *(str(i) for i in range(period)))
    for row in flat_rows:
        table.add_row(run_name(row), percent(row["miou"]))
    for row in content["runs"]:
        table.add_row(row["label"], *map(percent, row["by_distance"]))
    report("distance", content, table, out, as_json, lambda path: draw_lines([chart], path))


def _points(by_distance: tuple[float | None, ...]) -> list[tuple[float, float | None]]:
    return [(i, None if v is None else 100 * v) for i, v in enumerate(by_distance)]
