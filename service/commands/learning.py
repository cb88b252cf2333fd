"""What all training commands do: losses of theirs, and a training that may be interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TaskID
from safetensors.torch import save_file
from torch import Tensor

from resq_core.errors import OptionError
from resq_core.training import (
    VOID,
    Batch,
    FloatNetwork,
    Loss,
    Schedule,
    Trainer,
    lovasz_softmax,
    ohem_cross_entropy,
)

__all__ = [
    "check_options",
    "every_fourth",
    "pixels_and_regions",
    "run_training",
    "train_in_float",
]

_SAVE_EVERY = 50  # steps
_MEAN_OVER = 20  # steps, of the losses that are told
_RISE = 200  # steps until the rate is highest


def run_training(
    trainer: Trainer[Any], last: Path, log: Path, bar: Progress, line: TaskID
) -> list[float]:
    """Train to the end; means of the losses over some steps each, those of this call.

    Args:
        trainer: goes on from `last` where that exists.
        last: its state, written every 50 steps.
        log: the means are added to it, a line of JSON each.
        bar, line: are told of every step.

    Raises:
        SavedModelError: `last` is not of this training.
        InputError, OptionError: as `Trainer.advance` does.
    """
    last.parent.mkdir(parents=True, exist_ok=True)
    if last.exists():
        trainer.resume(last)
        bar.update(line, completed=trainer.step)
    recent: list[float] = []
    losses: list[float] = []
    with log.open("a", encoding="utf-8") as file:
        while not trainer.done:
            recent.append(trainer.advance())
            bar.advance(line)
            if len(recent) == _MEAN_OVER or trainer.done:
                losses.append(float(np.mean(recent)))
                recent.clear()
                file.write(json.dumps({"step": trainer.step, "loss": losses[-1]}) + "\n")
                file.flush()
                bar.update(line, description=f"training, loss {losses[-1]:.4g}")
            if trainer.step % _SAVE_EVERY == 0 or trainer.done:
                trainer.save(last)
    return losses


def train_in_float(
    network: FloatNetwork,
    loss: Loss,
    batches: Callable[[torch.Generator], Batch],
    out: Path,
    schedule: tuple[int, float, int],
    bar: Progress,
) -> tuple[Any, list[float]]:
    """Train a network, and write the average of its weights.

    Args:
        network: what learns, on the device where it does.
        loss, batches: see `Trainer`.
        out: the file, X.safetensors; the training's state is beside it until it ends.
        schedule: steps, the highest rate, and the seed.
        bar: is told of every step.

    Returns:
        The averaged network, in evaluation mode on the CPU, and what `run_training` returns.
    """
    steps, rate, seed = schedule
    rise = min(_RISE, steps // 10)
    plan = Schedule(
        steps,
        rate,
        head_rate=network.head_pace * rate,
        warm_up=rise,
        weight_decay=0.01,
        average=0.998,
        most=5.0,
    )
    trainer = Trainer(network, loss, batches, plan, seed)
    last, log = out.with_suffix(".last.pt"), out.with_suffix(".ndjson")
    losses = run_training(trainer, last, log, bar, bar.add_task("training", total=steps))
    best = trainer.result.network.eval().cpu()
    save_file({name: value.contiguous() for name, value in best.state_dict().items()}, out)
    last.unlink()
    return best, losses


def check_options(out: Path, batch: int) -> None:
    """Raise OptionError for a file of another kind, or no picture at a time."""
    if out.suffix != ".safetensors":
        raise OptionError(f"out is {out}; expected a name that ends in .safetensors")
    if batch < 1:
        raise OptionError(f"batch is {batch}; expected at least 1")


def every_fourth(labels: Tensor) -> Tensor:
    """One pixel of two by two of labels [B, H, W], another one in each picture.

    With all of them, the losses take three times as long as a small network.
    """
    return torch.stack([one[i // 2 % 2 :: 2, i % 2 :: 2] for i, one in enumerate(labels)])


def pixels_and_regions(logits: Tensor, labels: Tensor) -> Tensor:
    """Hard pixels, and half as much the regions of each class; see the two losses."""
    return ohem_cross_entropy(logits, labels, VOID) + lovasz_softmax(logits, labels, VOID) / 2
