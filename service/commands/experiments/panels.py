"""`resq experiment panels`: frames and their masks beside each other (Fig. 8 and 13)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from resq_core.errors import OptionError
from service.commands.experiments.options import ClipPath, Frames, Labels, ModelName, Out
from service.commands.experiments.report import percent, report
from service.commands.shared import Json, Policy, Reference, Threshold, frames_bar

if TYPE_CHECKING:
    from resq_core import Precision
    from resq_core.experiments import Trial
    from resq_core.tasks.pictures import Picture

__all__ = ["panels"]

_CELL_HEIGHT = 150  # pixels on the sheet
_SHOWN = 3  # frames where none is named


def panels(
    clip: ClipPath,
    labels: Labels = None,
    model: ModelName = "street",
    precision: Annotated[
        list[str] | None, typer.Option(help="Again for more; W8A8->W4A4 and W8A8->W4A{0,4,8}.")
    ] = None,
    period: Annotated[int, typer.Option(help="T.", min=2)] = 3,
    frame: Annotated[
        list[int] | None, typer.Option(help="To show, from 0, again for more; else three.")
    ] = None,
    reference: Reference = None,
    policy: Policy = None,
    threshold: Threshold = None,
    frames: Frames = 32,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fig. 8, 13: frames, float, frame quantization, ResQ and its bits, as one picture.

    Without --frame, the last frames of sequences spread over the clip are shown, as they are.
    """
    from resq_core.experiments.steps import frame_precision, residual_precision
    from service.commands.experiments.setting import open_setting

    asked = precision or ["W8A8->W4A4", "W8A8->W4A{0,4,8}"]
    precisions = [residual_precision(text) for text in asked]
    options = {"reference": reference, "policy": policy, "threshold": threshold}
    with frames_bar(Console(stderr=True)) as bar:
        setting = open_setting(clip, labels, model, frames, bar)
        trial = setting.trial
        shown = _shown(frame, len(trial), period)
        masks = {"float": [_float(trial, i) for i in shown]}
        if setting.labelled:
            masks = {"labels": [trial.samples[i][1] for i in shown], **masks}
        bits: dict[str, list[Picture]] = {}
        for p in dict.fromkeys(map(frame_precision, precisions)):
            masks[f"frame {p}"], _ = _run(trial, p, 1, {}, shown, bar)
        for p in precisions:
            masks[f"ResQ {p}"], found = _run(trial, p, period, options, shown, bar)
            if p.is_dynamic:
                bits[f"bits of {p}"] = found
    first = next(iter(masks))
    agreement = {
        name: [_agreement(trial, *pair) for pair in zip(masks[first], found, strict=True)]
        for name, found in masks.items()
        if name != first
    }
    content: dict[str, Any] = {**setting.facts, "period": period, "options": options}
    content |= {"shown": shown, f"pixels_as_{first}": agreement}
    table = Table(f"pixels as {first}", *(f"frame {i}" for i in shown))
    for name, values in agreement.items():
        table.add_row(name, *map(percent, values))
    pictures = [trial.samples[i][0] for i in shown]
    columns = {"frame": pictures, **{n: _coloured(trial, m) for n, m in masks.items()}, **bits}
    report("panels", content, table, out, as_json, sheet=lambda path: _draw(columns, shown, path))


def _draw(columns: dict[str, list[Picture]], shown: Sequence[int], path: Path) -> None:
    """A row for each frame."""
    from service.sheets import draw_sheet

    height, width = columns["frame"][0].shape[:2]
    captions = [name.replace(" W", "\nW") for name in columns]
    rows = [(f"frame {i}", [c[j] for c in columns.values()]) for j, i in enumerate(shown)]
    draw_sheet(captions, rows, path, (_CELL_HEIGHT, _CELL_HEIGHT * width // height))


def _shown(asked: list[int] | None, frames: int, period: int) -> list[int]:
    """Which frames are shown: the last ones of sequences, where none is asked for."""
    import numpy as np

    if asked:
        outside = [i for i in asked if not 0 <= i < frames]
        if outside:
            raise OptionError(f"frame is {outside[0]}; expected 0 to {frames - 1}")
        return asked
    last = [i for i in range(frames) if i % period == period - 1] or [frames - 1]
    places = np.linspace(0, len(last) - 1, min(_SHOWN, len(last))).round().astype(int)
    return [last[i] for i in places]


def _run(
    trial: Trial,
    precision: Precision,
    period: int,
    options: dict[str, Any],
    shown: Sequence[int],
    bar: Any,
) -> tuple[list[Picture], list[Picture]]:
    """Classes and coloured bits of the frames that are shown."""
    from service.sheets import draw_bits

    stream = trial.at(precision).stream(period=period, **options)
    found: dict[int, tuple[Picture, Picture]] = {}
    line = bar.add_task(str(precision), total=max(shown) + 1)
    for i, (picture, _) in enumerate(trial.samples[: max(shown) + 1]):
        result = stream.step(trial.task.preprocess(picture), bit_map=i in shown)
        if i in shown:
            assert result.bit_map is not None
            height, width = picture.shape[:2]
            classes = trial.task.postprocess(result.output, (height, width))
            found[i] = classes, draw_bits(result.bit_map.numpy())
        bar.advance(line)
    stream.close()
    return [found[i][0] for i in shown], [found[i][1] for i in shown]


def _float(trial: Trial, index: int) -> Picture:
    from resq_core.experiments import float_classes

    return float_classes(trial.model, trial.task, trial.samples[index][0])


def _coloured(trial: Trial, masks: Sequence[Picture]) -> list[Picture]:
    return [trial.task.colorize(mask) for mask in masks]


def _agreement(trial: Trial, wanted: Picture, found: Picture) -> float | None:
    """The share of pixels that agree, of those that have a class; None where none has."""
    known = wanted < len(trial.task.classes)
    return float((wanted == found)[known].mean()) if known.any() else None
