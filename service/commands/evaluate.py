"""`resq eval`: accuracy and bit operations of a model on a labelled clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from resq_core.backends import Backend
from resq_core.errors import OptionError
from service.commands.shared import Device, Json, frames_bar, model_names, print_json

if TYPE_CHECKING:
    from torch import Tensor

    from resq_core import QuantizedModel
    from resq_core.evaluation import Step, StepOutcome

__all__ = ["evaluate"]


_MOST_DISTANCES = 10


class Dataset(StrEnum):
    """Data sets that can be read."""

    CAMVID = "camvid"


def evaluate(
    root: Annotated[Path, typer.Option(help="Folder of the data set.")],
    dataset: Annotated[Dataset, typer.Option(help="Layout of the folder.")] = Dataset.CAMVID,
    split: Annotated[str, typer.Option(help="A clip whose frames all have labels.")] = "clip_15hz",
    model: Annotated[
        str, typer.Option(help="Model of the zoo.", autocompletion=model_names)
    ] = "street",
    precision: Annotated[str, typer.Option(help="For example W8A8->W8A{0,4,8}.")] = "W8A8->W8A4",
    period: Annotated[int, typer.Option(help="T, frames from keyframe to keyframe.")] = 3,
    reference: Annotated[str | None, typer.Option(help="keyframe, previous, tracking.")] = None,
    policy: Annotated[str | None, typer.Option(help="paper or relative.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Of the policy.")] = None,
    phases: Annotated[int, typer.Option(help="Average over this many keyframe offsets.")] = 1,
    backend: Annotated[Backend | None, typer.Option(help="Else RESQ_BACKEND, or auto.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score float, frame quantization, hold and ResQ on a labelled clip."""
    import torch

    from resq_core import Precision, zoo
    from resq_core.evaluation import CamVid, evaluate_clip
    from service.config import load_config

    parsed = Precision.parse(precision)
    if parsed.residual_weight_bits is None:
        raise OptionError(
            f"precision is {parsed}; expected one with residual frames, for example W8A8->W8A4"
        )
    card = zoo.card(model)
    config = load_config(backend=backend, device=device)
    quantized = zoo.load(model, parsed, config.backend, config.device)
    task = card.segmentation()
    clip = CamVid(root, split)
    keyframe = Precision(parsed.weight_bits, parsed.activation_bits)
    hold = Precision(parsed.weight_bits, parsed.activation_bits, parsed.residual_weight_bits, (0,))
    frame = Precision(parsed.residual_weight_bits, parsed.pool[-1])
    options = {"reference": reference, "policy": policy, "threshold": threshold}
    runs: dict[str, Callable[[], Step]] = {
        "float": lambda: _float_step(quantized),
        "keyframe": lambda: _stream_step(quantized.with_precision(keyframe), 1, {}),
        "frame": lambda: _stream_step(quantized.with_precision(frame), 1, {}),
        "hold": lambda: _stream_step(quantized.with_precision(hold), period, {}),
        "resq": lambda: _stream_step(quantized, period, options),
    }
    result: dict[str, Any] = {
        "model": model,
        "precision": str(parsed),
        "period": period,
        "split": split,
        "frame_precision": str(frame),
        "backend": quantized.serving(torch.zeros(1, 3, *card.input_size)).backend,
    }
    with frames_bar(Console(stderr=True)) as bar:
        for name, open_step in runs.items():
            line = bar.add_task(name, total=len(clip) * phases)
            counted = _counted(open_step, partial(bar.advance, line))
            score = evaluate_clip(counted, clip, task, card.ignore_index, tuple(range(phases)))
            result[name] = asdict(score)
    if as_json:
        print_json(result)
        return
    table = Table("", "mIoU", "GBOPs / frame", "mean bits", "bits of residual frames")
    for name in runs:
        row = result[name]
        residual = "" if row["residual_bits"] is None else f"{row['residual_bits']:.2f}"
        spent = (row["bops"] + row["policy_bops"]) / 1e9
        table.add_row(
            name, f"{100 * row['miou']:.1f}", f"{spent:.1f}", f"{row['mean_bits']:.2f}", residual
        )
    Console().print(table)
    _print_distances(result, ("hold", "resq"))
    typer.echo(f"backend: {result['backend']}")


def _print_distances(result: dict[str, Any], names: tuple[str, ...]) -> None:
    """mIoU of frames by how far they are from their keyframe (Fig. 9), as far as a line goes."""
    shown = result[names[0]]["by_distance"][:_MOST_DISTANCES]
    table = Table("frames after the keyframe", *(str(i) for i in range(len(shown))))
    for name in names:
        row = result[name]["by_distance"][:_MOST_DISTANCES]
        table.add_row(name, *("" if value is None else f"{100 * value:.1f}" for value in row))
    Console().print(table)


def _counted(open_step: Callable[[], Step], tell: Callable[[], object]) -> Callable[[], Step]:
    """The same streams, which tell of every frame."""

    def open_counted() -> Step:
        step = open_step()

        def run(x: Tensor) -> StepOutcome:
            outcome = step(x)
            tell()
            return outcome

        return run

    return open_counted


def _float_step(model: QuantizedModel) -> Step:
    """Float32 counted as 32×32 bits."""
    from resq_core.evaluation import StepOutcome

    def step(x: Tensor) -> StepOutcome:
        macs = sum(model.macs(x).values())
        return StepOutcome(model.float(x), macs * 32 * 32, 0, 32.0, is_anchor=True)

    return step


def _stream_step(model: QuantizedModel, period: int, options: dict[str, Any]) -> Step:
    from resq_core.evaluation import StepOutcome

    stream = model.stream(period=period, **options)

    def step(x: Tensor) -> StepOutcome:
        r = stream.step(x)
        return StepOutcome(r.output, r.bops.frame, r.bops.policy, r.mean_bits, r.is_anchor)

    return step
