"""`resq train`: a model learns at the precision that it runs at, from its own float network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from resq_core.errors import InputError, OptionError
from resq_core.naming import not_known
from service.commands.shared import (
    Json,
    frames_bar,
    model_names,
    network_input,
    parse_size,
    print_json,
)

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress, TaskID
    from torch import Tensor

    from resq_core.training import Source, Trainer
    from resq_core.zoo import ModelCard

__all__ = ["train"]

_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_SAVE_EVERY = 50  # steps
_MEAN_OVER = 20  # steps, of the losses that are told


def train(
    material: Annotated[list[Path], typer.Argument(help="Videos, or folders of still pictures.")],
    out: Annotated[Path, typer.Option(help="A folder for a server's RESQ_MODELS_DIR.")],
    precision: Annotated[str, typer.Option(help="For example W8A8->W4A4, in quotes.")],
    model: Annotated[
        str,
        typer.Option(
            help="Whose network, of the package or RESQ_MODELS_DIR.", autocompletion=model_names
        ),
    ] = "street",
    period: Annotated[int, typer.Option(help="T, frames of a sequence, and of the result.")] = 3,
    steps: Annotated[int, typer.Option(help="Of the optimizer.")] = 2000,
    batch: Annotated[int, typer.Option(help="Sequences at a time.")] = 4,
    crop: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT; else the network's input.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Learning rate at the first step.")] = 2e-5,
    frames: Annotated[int, typer.Option(help="At most, of each video, held in memory.")] = 240,
    seed: Annotated[int, typer.Option(help="Of the sequences.")] = 0,
    as_json: Json = False,
) -> None:
    """Quantization-aware training without labels: sequences of T frames, towards float outputs.

    An interrupted training goes on where it was when it is called again, from OUT/last.pt.
    """
    from resq_core import Precision, QuantizedModel
    from resq_core.training import Schedule, TrainedNetwork, Trainer, batch_of
    from service.commands.saving import save_model
    from service.config import load_config
    from service.local_engine import open_shelves, shelf_models

    if out.suffix == ".resq":
        raise OptionError(
            f"out is {out}; expected a folder, which holds the training's state as well"
        )
    offered = shelf_models(*open_shelves(load_config().models_dir))
    if model not in offered:
        raise OptionError(not_known("no model is", model, offered))
    card, quantized = offered[model].card, offered[model].load()
    if not isinstance(quantized, QuantizedModel):
        raise OptionError(f"{model} follows objects; expected a model of single pictures to train")
    parsed = Precision.parse(precision)
    start = quantized.with_precision(parsed)
    start = start.with_options(start.options.but(period=period))
    schedule, size = (
        Schedule(steps, rate, 10 * rate),
        (card.input_size if crop is None else parse_size(crop, "crop")),
    )
    if batch < 1:
        raise OptionError(f"batch is {batch}; expected at least 1")
    with frames_bar(Console(stderr=True)) as bar:
        source = _source(material, card, frames, bar)
        capturing = bar.add_task("capturing", total=1)
        network = TrainedNetwork(start, (batch, 3, *size))
        bar.update(capturing, completed=1)
        trainer = Trainer(
            network,
            _towards(start.module, card),
            lambda generator: batch_of(source, batch, period, size, generator),
            schedule,
            seed,
        )
        losses = _run(trainer, out, bar, bar.add_task("training", total=steps))
    how = (
        f"Trained at {parsed}, T = {period}, for {steps} steps by resq train, from its float self."
    )
    changes = {"training": f"{card.training} {how}", "precisions": (str(parsed),), "metrics": {}}
    save_model(out, network.quantized(), card.model_copy(update=changes))
    (out / "last.pt").unlink()
    if as_json:
        print_json({"out": str(out), "precision": str(parsed), "losses": losses})
    else:
        means = ", ".join(f"{loss:.4g}" for loss in losses[:1] + losses[1:][-1:])
        typer.echo(f"{out}: {parsed}, losses at first and last: {means or 'it was done before'}")


def _towards(teacher: torch.nn.Module, card: ModelCard) -> Callable[..., Tensor]:
    """The loss: how far from a float network's outputs, frame by frame."""
    import torch

    from resq_core.training import distillation, squared_error

    def loss(outputs: Sequence[Any], frames: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            wanted = [teacher(x) for x in frames]
        if card.task != "segmentation":
            return squared_error(list(outputs), wanted)
        each = [distillation(a, b) for a, b in zip(outputs, wanted, strict=True)]
        return torch.stack(each).mean()

    return loss


def _run(trainer: Trainer, out: Path, bar: Progress, line: TaskID) -> list[float]:
    """Train to the end; means of the losses over some steps each, those of this call."""
    out.mkdir(parents=True, exist_ok=True)
    last = out / "last.pt"
    if last.exists():
        trainer.resume(last)
        bar.update(line, completed=trainer.step)
    recent: list[float] = []
    losses: list[float] = []
    with (out / "losses.ndjson").open("a", encoding="utf-8") as log:
        while not trainer.done:
            recent.append(trainer.advance())
            bar.advance(line)
            if len(recent) == _MEAN_OVER or trainer.done:
                losses.append(mean(recent))
                recent.clear()
                log.write(json.dumps({"step": trainer.step, "loss": losses[-1]}) + "\n")
                bar.update(line, description=f"training, loss {losses[-1]:.4g}")
            if trainer.step % _SAVE_EVERY == 0 or trainer.done:
                trainer.save(last)
    return losses


@dataclass(frozen=True)
class _Mixed:
    """Draws from several sources in turn by chance."""

    sources: Sequence[Source]

    def draw(self, length: int, generator: torch.Generator) -> Tensor:
        import torch

        place = int(torch.randint(len(self.sources), (), generator=generator))
        return self.sources[place].draw(length, generator)


def _source(material: list[Path], card: ModelCard, frames: int, bar: Progress) -> Source:
    import torch

    from resq_core.tasks.pictures import read_picture
    from resq_core.training import ClipSource, StillSource
    from service.decoder import open_clip

    reading = bar.add_task("reading", total=len(material))
    clips: list[Tensor] = []
    stills: list[Tensor] = []
    for path in material:
        if path.is_dir():
            stills += [network_input(card, read_picture(file, "RGB"))[0] for file in _files(path)]
        else:
            with open_clip(path) as video:
                found = [network_input(card, frame.image) for frame in islice(video, frames)]
            if found:
                clips.append(torch.cat(found))
        bar.advance(reading)
    sources: list[Source] = []
    if clips:
        sources.append(ClipSource(clips))
    if stills:
        sources.append(StillSource(stills))
    if not sources:
        raise InputError(f"{', '.join(map(str, material))}: no frame in it; expected videos")
    return _Mixed(sources)


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
    if not found:
        raise InputError(f"{folder} holds no picture; expected {', '.join(_PICTURES)}")
    return found
