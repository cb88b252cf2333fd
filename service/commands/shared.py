"""Options and bars that several commands have.

Modules of commands import torch, and what needs it, only where a command runs: the shell's
completion and `--help` import all of them at every press of a key.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

import resq_core
from resq_core.errors import InputError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from resq_core.tasks import LabelSet
    from resq_core.zoo import ModelCard
    from service.pictures import Picture

__all__ = [
    "IMAGENET",
    "Box",
    "Device",
    "Json",
    "Key",
    "Masks",
    "Period",
    "Policy",
    "PrecisionText",
    "Rate",
    "Reference",
    "Start",
    "Steps",
    "Threshold",
    "Trains",
    "Url",
    "Weights",
    "bytes_bar",
    "frames_bar",
    "label_set",
    "model_names",
    "network_input",
    "parse_size",
    "people_read_stderr",
    "picture_files",
    "print_json",
]


def _cards() -> list[dict[str, Any]]:
    """The package's cards as they are in their files: the zoo, which checks them, needs torch."""
    files = Path(resq_core.__file__).parent.glob("zoo/*/card.json")
    return [json.loads(file.read_text("utf-8")) for file in sorted(files)]


def _precisions() -> list[str]:
    return sorted({precision for card in _cards() for precision in card["precisions"]})


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""What our networks expect to be taken from, and divided out of, RGB in 0 to 1."""

_PICTURES = (".jpg", ".jpeg", ".png", ".webp")

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
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:N or auto; else RESQ_DEVICE, or cpu.")
]
Trains = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N or auto.")]
Weights = Annotated[Path, typer.Option(help="The checkpoint to write, X.safetensors.")]
Start = Annotated[Path | None, typer.Option(help="A checkpoint; else from scratch.")]
Steps = Annotated[int, typer.Option(help="Of the optimizer.")]
Rate = Annotated[float, typer.Option(help="Highest learning rate.")]
Masks = Annotated[Path | None, typer.Option(help="Objects: palette PNG of frame one.")]


def model_names() -> list[str]:
    """Models of the package, for the shell's completion."""
    return [card["name"] for card in _cards()]


def frames_bar(console: Console) -> Progress:
    """A bar that counts frames, or other things that are alike."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


def bytes_bar(console: Console) -> Progress:
    """A bar that counts bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(*columns, TransferSpeedColumn(), console=console)


def people_read_stderr(as_json: bool) -> AbstractContextManager[Any]:
    """Where the output is JSON, what people read meanwhile goes to stderr."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def print_json(value: object) -> None:
    """A JSON document on stdout."""
    typer.echo(json.dumps(value, indent=1, default=str))


def picture_files(folder: Path) -> list[Path]:
    """The still pictures of a folder, by name. Raises InputError where there is none."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
    if not found:
        raise InputError(f"{folder} holds no picture; expected {', '.join(_PICTURES)}")
    return found


def parse_size(text: str, what: str) -> tuple[int, int]:
    """(height, width) of WIDTHxHEIGHT. Raises OptionError, which says `what` it is of."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise OptionError(f"{what} is {text!r}; expected WIDTHxHEIGHT, for example 480x360")
    return int(height), int(width)


def label_set(name: str) -> LabelSet:
    """Classes of a name. Raises OptionError, which lists the names there are."""
    from resq_core.tasks import CAMVID11, CITYSCAPES19

    known = {"camvid11": CAMVID11, "cityscapes19": CITYSCAPES19}
    if name not in known:
        raise OptionError(f"labels is {name!r}; expected one of {', '.join(known)}")
    return known[name]


def network_input(card: ModelCard, image: Picture) -> Tensor:
    """A picture as the model's network sees it; a pose network sees the whole of it."""
    if card.task == "pose":
        from resq_core.tasks import boxes

        task = card.pose()
        return task.preprocess(
            image, task.crop_of(boxes.Box.whole((image.shape[0], image.shape[1])))
        )
    return card.segmentation().preprocess(image)
