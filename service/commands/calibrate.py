"""`resq calibrate`: a network's weights and some video → a saved model."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import resq_core
from resq_core import models
from resq_core.errors import OptionError
from resq_core.tasks import SegmentationTask
from service.decoder import open_clip

__all__ = ["calibrate"]

_FRAMES_PER_CLIP = 64
_STRETCH = 16  # frames in a row
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def calibrate(
    clips: Annotated[list[Path], typer.Argument(help="Video files; mix still and moving scenes.")],
    weights: Annotated[Path, typer.Option(help="Checkpoint: safetensors, or a torch file.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    architecture: Annotated[str, typer.Option(help="A network that resq knows.")] = "ddrnet23_slim",
    classes: Annotated[int, typer.Option(help="Output channels.")] = 19,
    size: Annotated[str, typer.Option(help="Network input, WIDTHxHEIGHT.")] = "480x360",
    precision: Annotated[list[str] | None, typer.Option(help="May be given again.")] = None,
    period: Annotated[int, typer.Option(help="T, frames between keyframes.")] = 8,
    samples: Annotated[int, typer.Option(help="Pairs of frames.")] = 64,
) -> None:
    """Fit a network's activation scales on video and save it."""
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise OptionError(f"size is {size!r}; expected WIDTHxHEIGHT, for example 480x360")
    # only the preparation of pictures is used here, so classes need no names
    task = SegmentationTask(["any"], [(0, 0, 0)], (int(height), int(width)), *_IMAGENET)
    first, *also = precision or ["W8A8->W8A{0,4,8}", "W8A8->W8A4", "W8A4", "W8A8->W8A8"]
    network = models.build(architecture, num_classes=classes)
    models.load_weights(network, weights)
    model = resq_core.quantize(network, first, period=period)
    with Progress(console=Console(stderr=True)) as bar:
        reading = bar.add_task("reading", total=len(clips))
        stretches: list[list[Tensor]] = []
        for clip in clips:
            stretches += _stretches(clip, task)
            bar.advance(reading)
        fitting = bar.add_task("fitting", total=1.0)
        model.calibrate(
            stretches,
            samples=samples,
            also=also,
            progress=lambda fraction: bar.update(fitting, completed=fraction),
        )
    model.save(out)
    typer.echo(f"{out}: {', '.join([first, *also])}")


def _stretches(path: Path, task: SegmentationTask) -> list[list[Tensor]]:
    """Runs of consecutive frames, spread over the clip's length where that is known."""
    wanted = _FRAMES_PER_CLIP // _STRETCH
    with open_clip(path) as video:
        skip = max(video.frames // wanted - _STRETCH, 0)
        frames = iter(video)
        runs: list[list[Tensor]] = []
        for _ in range(wanted):
            run = [task.preprocess(frame.image) for frame in islice(frames, _STRETCH)]
            if run:
                runs.append(run)
            for _frame in islice(frames, skip):
                pass
    return runs
