"""`resq train-objects`: STM learns to follow things that are moved over pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from resq_core.errors import OptionError
from service.commands.shared import (
    Json,
    Start,
    Steps,
    Trains,
    Weights,
    frames_bar,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress
    from torch import Tensor

    from resq_core.models import STM
    from resq_core.training import Batch, Followed, ObjectSource

__all__ = ["train_objects"]

_EXAMINED = 64  # scenes, drawn anew
_SCENES, _LENGTH, _FPS = 10, 16, 10
_CALM = 0.25  # of the motion in training, for scenes that are written
_RATE, _RATE_TRAINED = 1e-3, 1e-4  # of encoders from scratch, and of a trained backbone
_MATCHING = 2.0  # weight of its error
_OTHER_SCENES = 1 << 32  # added to the seed


def train_objects(
    material: Annotated[
        list[Path], typer.Argument(help="What to cut from: videos, and folders of still pictures.")
    ],
    out: Weights,
    width: Annotated[int, typer.Option(help="Of STM's layers, of 64 published.")] = 16,
    backbone: Annotated[
        Path | None,
        typer.Option(help="EfficientNet-Lite0's published weights, for encoders of its kind."),
    ] = None,
    start: Start = None,
    size: Annotated[int, typer.Option(help="Side of the square frames, a multiple of 16.")] = 160,
    frames: Annotated[
        int, typer.Option(help="Of a scene, 2 at least; those before the last are remembered.")
    ] = 3,
    steps: Steps = 4000,
    batch: Annotated[int, typer.Option(help="Scenes at a time.")] = 6,
    rate: Annotated[
        float | None,
        typer.Option(help="Highest learning rate; else 1e-3, and 1e-4 of a trained backbone."),
    ] = None,
    scenes: Annotated[
        Path | None, typer.Option(help="Also write ten scenes there, for calibrate: mp4, png.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and scenes.")] = 0,
    device: Trains = "cpu",
    as_json: Json = False,
) -> None:
    """Train STM on people and pieces of pictures that move over pictures.

    An interrupted training goes on where it was when it is called again, from OUT's .last.pt.
    """
    import torch

    from resq_core import models
    from resq_core.device import checked_device
    from resq_core.training import ObjectNetwork, ObjectSource
    from resq_core.world import cut_out
    from service.commands.learning import check_options, train_in_float
    from service.commands.material import pictures_of

    check_options(out, batch)
    where = checked_device(device)
    if frames < 2:
        raise OptionError(f"--frames is {frames}; expected 2 at least, one to remember")
    torch.manual_seed(seed)
    if start is not None and backbone is not None:
        raise OptionError("--start has a backbone of its own; expected it or --backbone")
    options: dict[str, Any] = {"width": width}
    if backbone is not None:
        options["backbone"] = models.efficientnet.NAME
    if start is not None:
        options |= models.options_in(start, "stm")
    network = models.build("stm", **options)
    assert isinstance(network, models.STM)
    if backbone is not None:
        models.load_backbone(network, backbone)
    if start is not None:
        models.load_weights(network, start)
    if rate is None:
        trained = network.backbone == models.efficientnet.NAME
        rate = _RATE_TRAINED if trained else _RATE
    with frames_bar(Console(stderr=True)) as bar:
        source = ObjectSource(pictures_of(material, bar), cut_out, size)
        best, losses = train_in_float(
            ObjectNetwork(network).to(where),
            _loss,
            lambda generator: source.batch(batch, frames, generator),
            out,
            (steps, rate, seed),
            bar,
        )
        found = _examined(best, source, frames, seed, bar)
        if scenes is not None:
            _write_scenes(replace(source, pace=_CALM), scenes, seed)
    if as_json:
        print_json({"out": str(out), "steps": steps, "losses": losses, "j": found})
    else:
        typer.echo(
            f"{out}: stm of width {network.width}, {steps} steps, J {100 * found:.1f} in "
            f"{_EXAMINED} scenes drawn anew; `resq calibrate` makes a model of it"
        )


def _loss(outputs: Sequence[Followed], batch: Batch) -> Tensor:
    """Hard pixels, regions, and what attention matches, in all frames but the first."""
    import torch

    from resq_core.training import followed, matching_error
    from service.commands.learning import every_fourth, pixels_and_regions

    assert batch.labels is not None
    owners, slots = followed(batch.frames[0][:, 3:])
    masks = [labels[owners] == 1 + slots[:, None, None] for labels in batch.labels]
    total = torch.zeros(())
    for t, (logits, attention) in enumerate(outputs, 1):
        total = total + pixels_and_regions(logits, every_fourth(batch.labels[t]))
        total = total + _MATCHING * matching_error(attention, masks[: t + 1])
    return total / len(outputs)


def _examined(network: STM, source: ObjectSource, frames: int, seed: int, bar: Progress) -> float:
    """Mean J, 0 to 1, of followed things in the last frames of scenes that no training draws."""
    import numpy as np
    import torch

    from resq_core.evaluation import region_similarity
    from resq_core.training import ObjectNetwork

    follows = ObjectNetwork(network).eval()
    generator = torch.Generator().manual_seed(seed + _OTHER_SCENES)
    line = bar.add_task("examining", total=_EXAMINED)
    scores = []
    for _ in range(_EXAMINED):
        scene = source.batch(1, frames, generator)
        assert scene.labels is not None
        with torch.inference_mode():
            found = follows(scene.frames)[-1].logits.argmax(1)
        for slot in scene.labels[0].unique().tolist():  # type: ignore[no-untyped-call]
            if slot:
                masks = ((ids[0] == slot).numpy() for ids in (found, scene.labels[-1]))
                scores.append(region_similarity(*masks))
        bar.advance(line)
    return float(np.mean(scores))


def _write_scenes(source: ObjectSource, folder: Path, seed: int) -> None:
    """Scenes that neither training nor `_examined` draws: I.mp4, and I.png of the first masks."""
    import numpy as np
    import torch

    from resq_core.zoo.cards import DAVIS_COLOURS
    from service.encoder import VideoWriter
    from service.masks import mask_png

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed + 2 * _OTHER_SCENES)
    for i in range(_SCENES):
        scene = source.batch(1, _LENGTH, generator)
        assert scene.labels is not None
        with VideoWriter(folder / f"{i}.mp4", _FPS, (source.size, source.size)) as video:
            for frame in scene.frames:
                video.write((255 * frame[0, :3]).round().byte().permute(1, 2, 0).numpy())
        ids = scene.labels[0][0].numpy().astype(np.uint8)
        (folder / f"{i}.png").write_bytes(mask_png(ids, DAVIS_COLOURS))
