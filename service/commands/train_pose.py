"""`resq train-pose`: a pose network learns from people who are drawn before pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    parse_size,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress
    from torch import Tensor, nn

    from resq_core.training import Batch, PortraitSource

__all__ = ["train_pose"]

_EXAMINED = 256  # people, drawn anew
_OTHER_PEOPLE = 1 << 32  # added to the seed


def train_pose(
    material: Annotated[
        list[Path], typer.Argument(help="Backgrounds: videos, and folders of still pictures.")
    ],
    out: Weights,
    architecture: Annotated[str, typer.Option(help="A pose network that resq knows.")] = (
        "hrnet_w16_pose"
    ),
    start: Start = None,
    size: Annotated[str, typer.Option(help="Network input, WIDTHxHEIGHT.")] = "256x256",
    steps: Steps = 8000,
    batch: Annotated[int, typer.Option(help="People at a time.")] = 16,
    rate: Rate = 1e-3,
    seed: Annotated[int, typer.Option(help="Of weights and people.")] = 0,
    device: Trains = "cpu",
    as_json: Json = False,
) -> None:
    """Train a pose network on drawn people: the 15 joints of JHMDB, in any posture.

    An interrupted training goes on where it was when it is called again, from OUT's .last.pt.
    """
    import torch

    from resq_core import models
    from resq_core.device import checked_device
    from resq_core.tasks import JHMDB15, PoseTask
    from resq_core.training import FloatNetwork, PortraitSource
    from resq_core.world import portrait
    from service.commands.learning import check_options, train_in_float
    from service.commands.material import pictures_of

    check_options(out, batch)
    where = checked_device(device)
    if "num_joints" not in models.options_of(architecture):
        raise OptionError(f"architecture is {architecture}; expected a pose network")
    task = PoseTask(JHMDB15, parse_size(size, "size"), **IMAGENET)
    torch.manual_seed(seed)
    network = models.build(architecture, num_joints=len(JHMDB15))
    if start is None:  # heatmaps begin near 0, where most of them has to be
        torch.nn.init.normal_(network.get_parameter("final_layer.weight"), std=1e-3)
    else:
        models.load_weights(network, start)
    with frames_bar(Console(stderr=True)) as bar:
        source = PortraitSource(pictures_of(material, bar), portrait, task)
        best, losses = train_in_float(
            FloatNetwork(network).to(where),
            _loss,
            lambda generator: source.batch(batch, generator),
            out,
            (steps, rate, seed),
            bar,
        )
        found = _examined(best, source, seed, bar)
    if as_json:
        print_json({"out": str(out), "steps": steps, "losses": losses, "pck": found})
    else:
        typer.echo(
            f"{out}: {architecture}, {steps} steps, PCK@0.2 {100 * found:.1f} on {_EXAMINED} "
            "people drawn anew; `resq calibrate` makes a model of it"
        )


def _loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
    from resq_core.training import heatmap_error

    assert batch.labels is not None
    return heatmap_error(outputs[0], batch.labels[0])


def _examined(network: nn.Module, source: PortraitSource, seed: int, bar: Progress) -> float:
    """PCK at 0.2 of the joints' box, 0 to 1, on people that no training draws; all joints count."""
    import torch

    from resq_core.evaluation import PCK, box_size

    score = PCK(len(source.task.joints))
    generator = torch.Generator().manual_seed(seed + _OTHER_PEOPLE)
    line = bar.add_task("examining", total=_EXAMINED)
    for _ in range(_EXAMINED):
        person, crop = source.draw(generator)
        with torch.inference_mode():
            heatmaps = network(source.task.preprocess(person.image, crop))
        pose = source.task.decode(heatmaps, crop)
        score.update(pose.keypoints, person.joints, box_size(person.joints))
        bar.advance(line)
    return score.mean()
