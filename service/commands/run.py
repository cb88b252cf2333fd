"""`resq run`: a clip through ResQ without a server."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resq_core import zoo
from resq_core.errors import OptionError
from resq_core.tasks import SegmentationTask
from service.clip_runner import ClipSummary, record_clip, run_clip
from service.decoder import open_clip

__all__ = ["run"]


def run(
    clip: Annotated[Path, typer.Argument(help="A video file.")],
    out: Annotated[Path, typer.Option(help="Folder for annotated.mp4 and results.ndjson.")],
    model: Annotated[str, typer.Option(help="Model of the zoo.")] = "street",
    precision: Annotated[str | None, typer.Option(help="For example W8A8->W8A{0,4,8}.")] = None,
    period: Annotated[int | None, typer.Option(help="T, frames between keyframes.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Of the policy.")] = None,
    reference: Annotated[str | None, typer.Option(help="keyframe, previous, tracking.")] = None,
    policy: Annotated[str | None, typer.Option(help="paper or relative.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="Stop after this many frames.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Segment a clip frame by frame and write what came out."""
    if max_frames is not None and max_frames < 1:
        raise OptionError(f"max-frames is {max_frames}; expected 1 or more")
    card = zoo.card(model)
    quantized = zoo.load(model, precision)
    task = SegmentationTask(card.classes, card.palette, card.input_size, card.mean, card.std)
    stream = quantized.stream(period, reference, policy, threshold)
    title = f"{model} {quantized.precision} T={stream.options.period}"
    summary = ClipSummary()
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with open_clip(clip) as video, Progress(*columns, TimeRemainingColumn(), console=errors) as bar:
        total = min(filter(None, (video.frames, max_frames)), default=None)
        line = bar.add_task(clip.name, total=total)
        records = run_clip(stream, task, islice(video, max_frames))
        for summary in record_clip(records, stream, task, title, video.fps, out):
            text = f"{summary.fps:.1f} fps, saving {summary.bop_saving:.0%}"
            bar.update(line, advance=1, description=text)
        damaged = video.damaged
    if damaged:
        errors.print(f"{damaged} damaged packets in {clip.name} gave no picture")
    if as_json:
        typer.echo(json.dumps(asdict(summary) | {"out": str(out)}))
        return
    typer.echo(
        f"{summary.results} frames, {summary.anchors} keyframes, {summary.fps:.1f} fps, "
        f"BOP saving {summary.bop_saving:.1%}, {summary.mean_bits:.2f} mean bits -> {out}"
    )
