"""`resq train`: a model learns at the precision that it runs at, from its own float network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from resq_core.errors import OptionError
from resq_core.naming import not_known
from service.commands.recipe import Recipe
from service.commands.shared import (
    Json,
    Trains,
    frames_bar,
    model_names,
    network_input,
    parse_size,
    print_json,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from resq_core.training import Batch, Schedule
    from resq_core.zoo import ModelCard

__all__ = ["train"]

_STEPS = 2000
_DECAY = 5e-4  # of weights under gradient descent, as DDRNet was trained


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
    recipe: Recipe = None,
    steps: Annotated[
        int | None, typer.Option(help="Of the optimizer; else of --epochs, or 2000.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Sequences for each picture and frame.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Sequences at a time.")] = 4,
    crop: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT; else the network's input.")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="adam or sgd, whose rates differ.")] = "adam",
    rate: Annotated[float, typer.Option(help="Learning rate at the first step.")] = 2e-5,
    scales: Annotated[
        tuple[float, float],
        typer.Option(
            help="Still pictures are enlarged by these, from and to.", show_default="1.11"
        ),
    ] = (1 / 0.9, 1 / 0.9),
    labelled: Annotated[
        bool,
        typer.Option("--labelled", help="Learn from labels: DIR has its own in DIR_labels."),
    ] = False,
    frames: Annotated[int, typer.Option(help="At most, of each video, held in memory.")] = 240,
    mixed: Annotated[bool, typer.Option("--mixed", help="Multiply in bfloat16.")] = False,
    seed: Annotated[int, typer.Option(help="Of the sequences.")] = 0,
    device: Trains = "cpu",
    as_json: Json = False,
) -> None:
    """Quantization-aware training: sequences of T frames, towards float outputs or labels.

    An interrupted training goes on where it was when it is called again, from OUT/last.pt.
    """
    from resq_core import Precision, QuantizedModel
    from resq_core.device import checked_device
    from resq_core.training import TrainedNetwork, Trainer, batch_of
    from service.commands.learning import run_training
    from service.commands.material import labelled_stills, unlabelled
    from service.commands.saving import save_model
    from service.config import load_config
    from service.local_engine import open_shelves, shelf_models

    if out.suffix == ".resq":
        raise OptionError(
            f"out is {out}; expected a folder, which holds the training's state as well"
        )
    where = checked_device(device)
    offered = shelf_models(*open_shelves(load_config().models_dir))
    if model not in offered:
        raise OptionError(not_known("no model is", model, offered))
    card, quantized = offered[model].card, offered[model].load()
    if not isinstance(quantized, QuantizedModel):
        raise OptionError(f"{model} follows objects; expected a model of single pictures to train")
    parsed = Precision.parse(precision)
    start = quantized.with_precision(parsed)
    start = start.with_options(start.options.but(period=period))
    size = card.input_size if crop is None else parse_size(crop, "crop")
    if labelled and card.task != "segmentation":
        raise OptionError(f"{model} is for {card.task}; expected a segmentation model for labels")
    if batch < 1:
        raise OptionError(f"batch is {batch}; expected at least 1")
    if epochs is not None and not 0 < epochs < math.inf:
        raise OptionError(f"epochs is {epochs}; expected a number above 0")
    schedule = _schedule(optimizer, _STEPS if steps is None else steps, rate)
    with frames_bar(Console(stderr=True)) as bar:
        look = partial(network_input, card)
        source = (
            labelled_stills(material, look, len(card.classes), card.ignore_index, bar, scales)
            if labelled
            else unlabelled(material, look, frames, bar, scales)
        )
        if steps is None and epochs is not None:
            schedule = replace(schedule, steps=math.ceil(epochs * len(source) / batch))
        capturing = bar.add_task("capturing", total=1)
        network = TrainedNetwork(start, (batch, 3, *size), where, mixed)
        bar.update(capturing, completed=1)
        trainer = Trainer(
            network,
            _labels_loss if labelled else _towards(copy.deepcopy(start.module).to(where), card),
            lambda generator: batch_of(source, batch, period, size, generator),
            schedule,
            seed,
            {"towards": "labels" if labelled else "float"},
        )
        last, log = out / "last.pt", out / "losses.ndjson"
        losses = run_training(
            trainer, last, log, bar, bar.add_task("training", total=schedule.steps)
        )
    teacher = "labels" if labelled else "its float self"
    learned = f"T = {period}, for {schedule.steps} steps by resq train, from {teacher}."
    how = f"Trained at {parsed}, {learned}"
    changes = {"training": f"{card.training} {how}", "precisions": (str(parsed),), "metrics": {}}
    save_model(out, trainer.result.quantized(), card.model_copy(update=changes))
    last.unlink()
    if as_json:
        print_json({"out": str(out), "precision": str(parsed), "losses": losses})
    else:
        means = ", ".join(f"{loss:.4g}" for loss in losses[:1] + losses[1:][-1:])
        typer.echo(f"{out}: {parsed}, losses at first and last: {means or 'it was done before'}")


def _schedule(optimizer: str, steps: int, rate: float) -> Schedule:
    """How fast to learn: Adam moves scales ten times as far as weights, and has a bound.

    Raises OptionError for another optimizer, or a number out of range.
    """
    from resq_core.training import Optimizer, Schedule

    if optimizer == Optimizer.ADAM:
        return Schedule(steps, rate, scale_rate=10 * rate)
    if optimizer == Optimizer.SGD:
        return Schedule(
            steps,
            rate,
            optimizer=Optimizer.SGD,
            scale_rate=rate,
            weight_decay=_DECAY,
            most=math.inf,
        )
    raise OptionError(f"optimizer is {optimizer!r}; expected {' or '.join(Optimizer)}")


def _towards(teacher: torch.nn.Module, card: ModelCard) -> Callable[..., Tensor]:
    """The loss: how far from a float network's outputs, frame by frame."""
    import torch

    from resq_core.training import distillation, squared_error

    def loss(outputs: Sequence[Any], batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = [teacher(x) for x in batch.frames]
        if card.task != "segmentation":
            return squared_error(list(outputs), wanted)
        each = [distillation(a, b) for a, b in zip(outputs, wanted, strict=True)]
        return torch.stack(each).mean()

    return loss


def _labels_loss(outputs: Sequence[Any], batch: Batch) -> Tensor:
    """Hard pixels of every frame, against its labels."""
    import torch

    from resq_core.training import VOID, ohem_cross_entropy

    assert batch.labels is not None
    each = [ohem_cross_entropy(a, b, VOID) for a, b in zip(outputs, batch.labels, strict=True)]
    return torch.stack(each).mean()
