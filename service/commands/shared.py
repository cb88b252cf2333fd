"""Options and bars that several commands have."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from torch import Tensor

from resq_core import zoo
from resq_core.errors import OptionError
from resq_core.evaluation import Step, StepOutcome
from resq_core.tasks import boxes
from service.pictures import Picture

__all__ = [
    "Box",
    "Json",
    "Key",
    "Masks",
    "Period",
    "Policy",
    "PrecisionText",
    "Reference",
    "Threshold",
    "Url",
    "bytes_bar",
    "counted",
    "frames_bar",
    "model_names",
    "network_input",
    "parse_size",
    "people_read_stderr",
    "print_json",
]


def _precisions() -> list[str]:
    return sorted({precision for name in zoo.names() for precision in zoo.card(name).precisions})


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str, typer.Option(help="Of the server.")]
Key = Annotated[str | None, typer.Option(envvar="RESQ_KEY", help="API key of the server.")]

PrecisionText = Annotated[
    str | None,
    typer.Option(help='For example "W8A8->W8A{0,4,8}", in quotes.', autocompletion=_precisions),
]
Period = Annotated[int | None, typer.Option(help="T, frames between keyframes.")]
Threshold = Annotated[float | None, typer.Option(help="Of the policy.")]
Reference = Annotated[str | None, typer.Option(help="keyframe, previous, tracking.")]
Policy = Annotated[str | None, typer.Option(help="paper or relative.")]
Box = Annotated[str | None, typer.Option(help="Pose: x,y,width,height in pixels.")]
Masks = Annotated[Path | None, typer.Option(help="Objects: palette PNG of frame one.")]


def model_names() -> list[str]:
    """Models of the package, for the shell's completion."""
    return list(zoo.names())


def frames_bar(console: Console) -> Progress:
    """A bar that counts frames, or other things that are alike."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


def bytes_bar(console: Console) -> Progress:
    """A bar that counts bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(*columns, TransferSpeedColumn(), console=console)


def counted(open_step: Callable[[], Step], tell: Callable[[], object]) -> Callable[[], Step]:
    """The same steps for `evaluate_clip`, which tell of every frame."""

    def open_counted() -> Step:
        step = open_step()

        def run(x: Tensor) -> StepOutcome:
            outcome = step(x)
            tell()
            return outcome

        return run

    return open_counted


def people_read_stderr(as_json: bool) -> AbstractContextManager[Any]:
    """Where the output is JSON, what people read meanwhile goes to stderr."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def print_json(value: object) -> None:
    """A JSON document on stdout."""
    typer.echo(json.dumps(value, indent=1, default=str))


def parse_size(text: str, what: str) -> tuple[int, int]:
    """(height, width) of WIDTHxHEIGHT. Raises OptionError, which says `what` it is of."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise OptionError(f"{what} is {text!r}; expected WIDTHxHEIGHT, for example 480x360")
    return int(height), int(width)


def network_input(card: zoo.ModelCard, image: Picture) -> Tensor:
    """A picture as the model's network sees it; a pose network sees the whole of it."""
    if card.task == "pose":
        task = card.pose()
        return task.preprocess(
            image, task.crop_of(boxes.Box.whole((image.shape[0], image.shape[1])))
        )
    return card.segmentation().preprocess(image)
