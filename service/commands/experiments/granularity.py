"""`resq experiment granularity`: weight scales per tensor against per channel (Tab. 5)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from resq_core.encodings import Granularity
from service.charts import Bars, draw_bars
from service.commands.experiments.options import ClipPath, Frames, Labels, ModelName, Out
from service.commands.experiments.report import percent, report
from service.commands.shared import Json, frames_bar

__all__ = ["granularity"]

_PAPER = ["W8A8->W4A8", "W8A8->W8A4", "W8A8->W4A4", "W8A4->W4A4"]
_FRAMES = 64  # of each clip that is calibrated on


def granularity(
    clip: ClipPath,
    labels: Labels = None,
    model: ModelName = "street",
    calibrate: Annotated[
        list[Path] | None, typer.Option(help="Clips to calibrate on, again for more; else CLIP.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Pairs of frames to calibrate on.", min=1)] = 64,
    precision: Annotated[
        list[str] | None, typer.Option(help="May be given again; the paper's four.")
    ] = None,
    period: Annotated[int, typer.Option(help="T.", min=2)] = 3,
    frames: Frames = 32,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Tab. 5: weight scales per tensor or per channel, both calibrated on the same frames."""
    from resq_core.experiments import recalibrated
    from resq_core.experiments.steps import residual_precision
    from service.commands.experiments.setting import open_setting, read_pictures, score
    from service.config import load_config

    precisions = [residual_precision(text) for text in precision or _PAPER]
    with frames_bar(Console(stderr=True)) as bar:
        setting = open_setting(clip, labels, model, frames, bar)
        trial = setting.trial
        material = [
            [trial.task.preprocess(picture) for picture in read_pictures(path, _FRAMES)]
            for path in calibrate or [clip]
        ]
        found: dict[Granularity, list[dict[str, Any]]] = {}
        for kind in Granularity:
            line = bar.add_task(f"calibrating per {kind}", total=1.0)
            fitted = recalibrated(
                trial.model,
                kind,
                precisions,
                material,
                samples,
                load_config().backend,
                progress=partial(_tell, bar, line),
            )
            other = trial.but(fitted, trial.task)
            found[kind] = score(other, [other.resq(p, period) for p in precisions], bar)
    content: dict[str, Any] = {**setting.facts, "period": period, "samples": samples}
    content["calibrated_on"] = [str(path) for path in calibrate or [clip]]
    content["runs"] = [{"granularity": str(k), **row} for k, rows in found.items() for row in rows]
    tensor, channel = ([row["miou"] for row in found[k]] for k in Granularity)
    table = Table("precision", f"{setting.measure} per tensor", "per channel", "gain")
    for p, a, b in zip(precisions, tensor, channel, strict=True):
        table.add_row(str(p), percent(a), percent(b), f"{100 * (b - a):+.2f}")
    chart = Bars(
        f"{setting.measure}, %",
        [str(p) for p in precisions],
        [(f"per {k}", [100 * row["miou"] for row in rows]) for k, rows in found.items()],
        zoom=True,
    )
    report("granularity", content, table, out, as_json, lambda path: draw_bars(chart, path))


def _tell(bar: Progress, line: TaskID, share: float) -> None:
    bar.update(line, completed=share)
