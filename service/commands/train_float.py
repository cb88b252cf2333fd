"""`resq train-float`: a network learns in floating point, before anything is quantized."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from resq_core.errors import OptionError
from service.commands.shared import (
    IMAGENET,
    Json,
    Rate,
    Start,
    Steps,
    Trains,
    Weights,
    frames_bar,
    label_set,
    parse_size,
    print_json,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from resq_core.training import Batch

__all__ = ["train_float"]

_AUXILIARY = 0.4  # how much the head that only training has counts, as in DDRNet's training
_SCALES = (0.75, 2.0)
_JITTER = 0.3


def train_float(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="DIR with DIR_labels beside it, CITYSCAPES/leftImg8bit/train, or what "
            "`resq world --labels` wrote."
        ),
    ],
    out: Weights,
    labels: Annotated[str, typer.Option(help="camvid11 or cityscapes19.")] = "camvid11",
    architecture: Annotated[str, typer.Option(help="A network that resq knows.")] = "ddrnet23_slim",
    start: Start = None,
    upsample: Annotated[int, typer.Option(help="DDRNet: logits 2 or 4 times as fine.")] = 1,
    size: Annotated[str, typer.Option(help="Network input, WIDTHxHEIGHT.")] = "480x360",
    steps: Steps = 8000,
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 6,
    rate: Rate = 1e-3,
    seed: Annotated[int, typer.Option(help="Of weights and pictures.")] = 0,
    device: Trains = "cpu",
    as_json: Json = False,
) -> None:
    """Train a segmentation network on labelled pictures.

    An interrupted training goes on where it was when it is called again, from OUT's .last.pt.
    """
    import torch

    from resq_core.device import checked_device
    from resq_core.tasks import SegmentationTask
    from resq_core.training import FloatNetwork, batch_of
    from service.commands.learning import check_options, train_in_float
    from service.commands.material import labelled_stills

    check_options(out, batch)
    where = checked_device(device)
    known, wanted = label_set(labels), parse_size(size, "size")
    torch.manual_seed(seed)
    network = _network(architecture, len(known.classes), upsample, start)
    look = SegmentationTask(known.classes, known.palette, wanted, **IMAGENET).preprocess
    with frames_bar(Console(stderr=True)) as bar:
        source = labelled_stills(
            folders, look, len(known.classes), known.ignore_index, bar, _SCALES, _JITTER
        )
        _, losses = train_in_float(
            FloatNetwork(network).to(where),
            _loss,
            lambda generator: batch_of(source, batch, 1, wanted, generator),
            out,
            (steps, rate, seed),
            bar,
        )
    if as_json:
        print_json({"out": str(out), "steps": steps, "losses": losses})
    else:
        typer.echo(f"{out}: {architecture}, {steps} steps; `resq calibrate` makes a model of it")


def _network(architecture: str, classes: int, upsample: int, start: Path | None) -> nn.Module:
    """The network that learns, with its auxiliary head where it has one.

    Raises OptionError for finer logits than the network can have.
    """
    from resq_core import models

    known = models.options_of(architecture)
    options: dict[str, Any] = {"num_classes": classes}
    if "aux_head" in known:
        options["aux_head"] = True
    if "upsample" in known:
        options["upsample"] = upsample
    elif upsample != 1:
        raise OptionError(f"upsample is {upsample}; expected 1: {architecture} has no such option")
    if start is None:
        return models.build(architecture, **options)
    if "upsample" in known:
        options["upsample"] = models.options_in(start, architecture).get("upsample", 1)
    network = models.build(architecture, **options)
    models.load_weights(network, start)
    if isinstance(network, models.DDRNet):
        network.refine(upsample)
    return network


def _loss(outputs: Sequence[Any], batch: Batch) -> Tensor:
    """Hard pixels, regions of each class, and hard pixels of the auxiliary head."""
    import torch

    from resq_core.training import VOID, ohem_cross_entropy
    from service.commands.learning import every_fourth, pixels_and_regions

    assert batch.labels is not None
    total = torch.zeros(())
    for output, labels in zip(outputs, batch.labels, strict=True):
        truth = every_fourth(labels)
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        total = total + pixels_and_regions(logits, truth)
        for other in auxiliary:
            total = total + _AUXILIARY * ohem_cross_entropy(other, truth, VOID)
    return total / len(outputs)
