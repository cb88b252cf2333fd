"""`resq calibrate`: a network's weights and some video → a saved model, ready for the server."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from resq_core.errors import InputError, OptionError
from service.commands.shared import (
    IMAGENET,
    Json,
    label_set,
    network_input,
    parse_size,
    print_json,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    import resq_core
    from resq_core.models import STM
    from resq_core.zoo import ModelCard
    from service.decoder import ClipFrame

__all__ = ["calibrate"]

_FRAMES_PER_CLIP = 64
_STRETCH = 16  # frames in a row
_PRECISIONS = ["W8A8->W8A{0,4,8}", "W8A8->W8A4", "W8A4", "W8A8->W8A8"]


def calibrate(
    clips: Annotated[list[Path], typer.Argument(help="Video files; mix still and moving scenes.")],
    weights: Annotated[Path, typer.Option(help="Checkpoint: safetensors, or a torch file.")],
    out: Annotated[Path, typer.Option(help="A folder for a server's RESQ_MODELS_DIR, or X.resq.")],
    architecture: Annotated[str, typer.Option(help="A network that resq knows.")] = "ddrnet23_slim",
    classes: Annotated[int, typer.Option(help="Output channels of a segmentation network.")] = 19,
    labels: Annotated[str | None, typer.Option(help="camvid11 or cityscapes19.")] = None,
    joints: Annotated[str, typer.Option(help="Joint set of a pose network.")] = "coco17",
    masks: Annotated[list[Path] | None, typer.Option(help="STM: a first mask per clip.")] = None,
    size: Annotated[str, typer.Option(help="Network input, WIDTHxHEIGHT.")] = "480x360",
    precision: Annotated[list[str] | None, typer.Option(help="May be given again.")] = None,
    period: Annotated[int, typer.Option(help="T, frames between keyframes.")] = 8,
    samples: Annotated[int, typer.Option(help="Pairs of frames.")] = 64,
    licence: Annotated[str, typer.Option(help="Of the weights, for the card.")] = "not stated",
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Keyframe codes of up to 7 bits: no sign after ReLU.")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Round weights: half the file.")] = False,
    as_json: Json = False,
) -> None:
    """Fit a network's activation scales on video and save it; a folder gets a card as well."""
    from resq_core import models
    from resq_core.models import STM
    from service.commands.saving import save_model

    job = _Job(
        clips,
        architecture,
        parse_size(size, "size"),
        precision or _PRECISIONS,
        period,
        samples,
        unsigned,
    )
    facts: dict[str, Any]
    options = models.options_in(weights, architecture) | _options(
        architecture, classes, labels, joints
    )
    network = models.build(architecture, **options)
    models.load_weights(network, weights)
    network.eval()
    if half:
        _round(network)
    with Progress(console=Console(stderr=True)) as bar:
        if isinstance(network, STM):
            model, facts = job.objects(network, masks or [], bar), {"task": "vos"}
        elif architecture.endswith("_pose"):
            facts = {"task": "pose", "joints": joints}
            model = job.frames(network, facts, bar)
        else:
            facts = {"task": "segmentation", **_look(classes, labels)}
            model = job.frames(network, facts, bar)
    save_model(out, model, job.card(out.name, facts, licence))
    if as_json:
        print_json({"out": str(out), "precisions": job.precisions})
    else:
        typer.echo(f"{out}: {', '.join(job.precisions)}")


def _round(network: nn.Module) -> None:
    """Bring weights to values that float16 holds; what is saved then takes half the place."""
    for tensor in network.state_dict().values():  # which shares their memory
        if tensor.is_floating_point() and bool(tensor.half().isfinite().all()):
            tensor.copy_(tensor.half())


def _options(architecture: str, classes: int, labels: str | None, joints: str) -> dict[str, Any]:
    """Options of the builder, checked."""
    from resq_core.zoo import JOINT_SETS

    known = None if labels is None else label_set(labels)
    if architecture == "stm":
        return {}
    if architecture.endswith("_pose"):
        if joints not in JOINT_SETS:
            raise OptionError(f"joints is {joints!r}; expected one of {', '.join(JOINT_SETS)}")
        return {"num_joints": len(JOINT_SETS[joints])}
    return {"num_classes": classes if known is None else len(known.classes)}


def _look(classes: int, labels: str | None) -> dict[str, Any]:
    """Names and colours of classes."""
    if labels is not None:
        known = label_set(labels)
        return {
            "classes": known.classes,
            "palette": known.palette,
            "ignore_index": known.ignore_index,
        }
    hues = [colorsys.hsv_to_rgb((i * 0.61803) % 1, 0.65, 0.85) for i in range(classes)]
    return {
        "classes": tuple(f"class {i}" for i in range(classes)),
        "palette": tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues),
    }


@dataclass(frozen=True, slots=True)
class _Job:
    """What is calibrated on what."""

    clips: list[Path]
    architecture: str
    size: tuple[int, int]
    precisions: list[str]
    period: int
    samples: int
    unsigned: bool

    def frames(
        self, network: nn.Module, facts: dict[str, Any], bar: Progress
    ) -> resq_core.QuantizedModel:
        """A network that sees single pictures."""
        import resq_core

        card = self.card("any", facts, "")
        first, *also = self.precisions
        model = resq_core.quantize(network, first, period=self.period)
        reading = bar.add_task("reading", total=len(self.clips))
        stretches: list[list[Tensor]] = []
        for clip in self.clips:
            stretches += [[network_input(card, f.image) for f in run] for run in _stretches(clip)]
            bar.advance(reading)
        model.calibrate(
            stretches,
            samples=self.samples,
            also=also,
            progress=_fitting(bar),
            unsigned=self.unsigned,
        )
        return model

    def objects(self, network: STM, masks: list[Path], bar: Progress) -> Any:
        """STM, which begins with the first frame's objects."""
        import numpy as np
        from PIL import Image

        from resq_core.pipelines import VosClip, quantize_stm
        from service.objects import read_mask_file

        if self.unsigned:
            raise OptionError("unsigned is given; an STM is only calibrated with signed codes")
        if len(masks) != len(self.clips):
            raise OptionError(
                f"{len(masks)} masks for {len(self.clips)} clips; expected --masks with a palette "
                "PNG of the first frame's objects for each clip"
            )
        first, *also = self.precisions
        model = quantize_stm(network, first, period=self.period)
        reading = bar.add_task("reading", total=len(self.clips))
        material = []
        for clip, path in zip(self.clips, masks, strict=True):
            height, width = self.size
            ids = read_mask_file(path)
            run = next(_stretches(clip), [])
            pictures = [np.asarray(Image.fromarray(f.image).resize((width, height))) for f in run]
            material.append(VosClip.of(pictures, _shrunk(ids, self.size)))
            bar.advance(reading)
        model.calibrate(material, samples=self.samples, also=also, progress=_fitting(bar))
        return model

    def card(self, name: str, facts: dict[str, Any], licence: str) -> ModelCard:
        """The card of the result."""
        from resq_core.zoo import ModelCard

        fields = {
            "name": name,
            "title": f"{name}: {self.architecture}",
            "architecture": self.architecture,
            "input_size": self.size,
            "licence": licence,
            "data": "not stated",
            "metrics": {},
            "training": "calibrated by resq calibrate",
            "precisions": tuple(self.precisions),
        }
        return ModelCard.model_validate(fields | IMAGENET | facts)


def _fitting(bar: Progress) -> Callable[[float], None]:
    """A line of the progress bar that is told fractions."""
    task = bar.add_task("fitting", total=1.0)
    return lambda fraction: bar.update(task, completed=fraction)


def _shrunk(masks: dict[int, Any], size: tuple[int, int]) -> dict[int, Any]:
    """Masks at another size, (H, W)."""
    import numpy as np
    from PIL import Image

    height, width = size
    small = {
        i: np.asarray(
            Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST), np.bool_
        )
        for i, mask in masks.items()
    }
    lost = [i for i, mask in small.items() if not mask.any()]
    if lost:
        raise InputError(f"the objects {lost} vanish at {width}x{height}; give a larger --size")
    return small


def _stretches(path: Path) -> Iterator[list[ClipFrame]]:
    """Runs of consecutive frames, spread over the clip's length where that is known."""
    from service.decoder import open_clip

    wanted = _FRAMES_PER_CLIP // _STRETCH
    with open_clip(path) as video:
        skip = max(video.frames // wanted - _STRETCH, 0)
        frames = iter(video)
        for _ in range(wanted):
            run = list(islice(frames, _STRETCH))
            if run:
                yield run
            for _frame in islice(frames, skip):
                pass
