"""`resq tune`: the period and threshold that a clip of your own allows."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from resq_core import Precision, QuantizedModel
from resq_core.errors import InputError, OptionError
from resq_core.pipelines import (
    Pipeline,
    PosePipeline,
    QuantizedStm,
    SegmentationPipeline,
    VosPipeline,
)
from resq_core.stream import StreamOptions
from resq_core.tasks import Box, VosTask
from resq_core.tuning import (
    MOST_PER_PERIOD,
    Bench,
    Curve,
    Goal,
    Judge,
    LabelledMiou,
    Limit,
    MaskAgreement,
    Opener,
    PixelAgreement,
    Point,
    PoseAgreement,
    periods_for,
    search,
)
from resq_core.zoo import ModelCard
from service.config import load_config
from service.decoder import open_clip
from service.local_engine import open_shelves, shelf_models
from service.messages import parse_box
from service.objects import read_mask_file
from service.pictures import Picture
from service.plots import plot_curve

__all__ = ["tune"]


def tune(
    clip: Annotated[Path, typer.Option(help="A video file like those you will run.")],
    model: Annotated[str, typer.Option(help="Model of the zoo or of RESQ_MODELS_DIR.")] = "street",
    max_drop: Annotated[float | None, typer.Option(help="Goal: points lost at most.")] = None,
    max_bops: Annotated[float | None, typer.Option(help="Goal: share of W8A8's BOPs.")] = None,
    max_ms: Annotated[float | None, typer.Option(help="Goal: ms per frame, here.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Class ids by frame: 000000.png and on, not all needed.")
    ] = None,
    precision: Annotated[list[str] | None, typer.Option(help="May be given again.")] = None,
    periods: Annotated[str | None, typer.Option(help="T to try; 4,8,16,32 as they fit.")] = None,
    frames: Annotated[int, typer.Option(help="Consecutive frames to run on.", min=2)] = 64,
    start: Annotated[int, typer.Option(help="The first of them.", min=0)] = 0,
    box: Annotated[str | None, typer.Option(help="Pose: x,y,width,height in pixels.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Objects: palette PNG of frame one.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the curve here.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the tuned model: X.resq, or DIR.")] = None,
) -> None:
    """Find the period and the policy threshold for a clip, within one goal."""
    goal = _goal({Limit.DROP: max_drop, Limit.BOPS: max_bops, Limit.MS: max_ms})
    asked = None if periods is None else _numbers(periods)
    offered = shelf_models(*open_shelves(load_config().models_dir))
    if model not in offered:
        raise OptionError(f"no model is called {model!r}; there are: {', '.join(offered)}")
    card, quantized = offered[model].card, offered[model].load()
    if labels is not None and card.task != "segmentation":
        raise OptionError(f"labels are class ids; {model} does {card.task}, and is tuned without")
    pictures = _pictures(clip, start, frames)
    tried = periods_for(len(pictures), asked)
    precisions = [Precision.parse(text) for text in precision or [str(quantized.precision)]]
    given = {} if labels is None else _labels(labels, start, len(pictures))

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console
    ) as bar:
        line = bar.add_task("W8A8 frames", total=len(precisions) * len(tried) * MOST_PER_PERIOD)
        bench = Bench(
            pictures,
            _opener(quantized, card, box, masks),
            quantized.options,
            lambda outputs: _judge(card, outputs, given),
        )

        def report(p: Point) -> None:
            bar.update(line, advance=1, description=f"T = {p.period}, ρ = {p.threshold:.3g}")

        curve = search(bench, precisions, goal, tried, report)
    _print(curve, bench.judge)
    if json_file is not None:
        facts = {"model": model, "clip": str(clip), "start": start, "frames": len(pictures)}
        _write(json_file, facts, curve, bench.judge)
    best = curve.best
    if best is None:
        near = curve.closest
        raise OptionError(
            f"no setting keeps {goal.limit} {goal.value:g}: the closest has {goal.of(near):.3g}, "
            f"with {_options(near)}; expected a looser bound, or other --periods or --precision"
        )
    typer.echo(f"resq run {clip} --out out --model {model} {_options(best)}")
    if out is not None:
        _save(
            out,
            quantized,
            card,
            best,
            f"tuned by resq tune on {clip.name}, {goal.limit} {goal.value:g}",
        )


def _goal(values: dict[Limit, float | None]) -> Goal:
    given = [(limit, value) for limit, value in values.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(f"--{limit}" for limit in Limit)
        raise OptionError(f"{len(given)} goals given; expected one of {names}")
    return Goal(*given[0])


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 8 for part in parts):
        raise OptionError(f"periods is {text!r}; expected whole numbers, for example 4,8,16")
    return [int(part) for part in parts]


def _pictures(clip: Path, start: int, frames: int) -> list[Picture]:
    with open_clip(clip) as video:
        found = [frame.image for frame in islice(video, start, start + frames)]
    if not found:
        raise InputError(f"{clip.name} has no frame {start}; expected a --start inside the clip")
    return found


def _labels(folder: Path, start: int, frames: int) -> dict[int, NDArray[np.uint8]]:
    """Labels uint8 [H, W] by index among the frames that run.

    Raises InputError for a folder without any for these frames, or a file that is none.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder of labels at {folder}")
    found: dict[int, NDArray[np.uint8]] = {}
    for path in sorted(folder.glob("*.png")):
        if path.stem.isdecimal() and start <= int(path.stem) < start + frames:
            found[int(path.stem) - start] = _label(path)
    if not found:
        raise InputError(
            f"{folder} has no label of the frames {start} to {start + frames - 1}; expected PNG "
            f"files named by the frame's number from 0, for example {start:06d}.png"
        )
    return found


def _label(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode not in ("P", "L"):
                raise InputError(
                    f"{path} is a PNG of mode {picture.mode}; expected one byte per pixel, the "
                    "class id, grey or as a palette"
                )
            return np.array(picture, np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a PNG: {error}") from error


def _opener(
    model: QuantizedModel | QuantizedStm, card: ModelCard, box: str | None, masks: Path | None
) -> Opener:
    """Opens streams of a model with what its task needs."""
    for task, name, value in (("pose", "box", box), ("vos", "masks", masks)):
        if value is not None and card.task != task:
            raise OptionError(f"{name} is for {task} models; {card.name} does {card.task}")
    region = None if box is None else Box(*parse_box(box))
    if card.task == "vos" and masks is None:
        raise OptionError(f"{card.name} follows objects; expected --masks, those of frame one")
    objects = {} if masks is None else read_mask_file(masks)
    at: dict[Precision, Any] = {}  # each holds quantized weights once it has run

    def open_stream(precision: Precision, options: StreamOptions) -> Pipeline:
        if precision not in at:
            at[precision] = model.with_precision(precision)
        chosen, policy = at[precision], options.policy
        given: dict[str, Any] = {
            "period": options.period,
            "reference": str(options.reference),
            "policy": str(policy.form),
            "threshold": policy.threshold,
        }
        if isinstance(chosen, QuantizedStm):
            return VosPipeline(chosen, objects, task=VosTask(max(card.input_size)), **given)
        stream = chosen.stream(**given)
        if card.task == "pose":
            return PosePipeline(stream, card.pose(), region)
        return SegmentationPipeline(stream, card.segmentation())

    return open_stream


def _judge(card: ModelCard, outputs: list[Any], labels: dict[int, NDArray[np.uint8]]) -> Judge:
    if card.task == "pose":
        return PoseAgreement(outputs)
    if card.task == "vos":
        return MaskAgreement(outputs)
    if labels:
        return LabelledMiou(outputs, labels, len(card.classes), card.ignore_index)
    return PixelAgreement(outputs)


def _options(point: Point) -> str:
    """A setting as options of `resq run`."""
    return (
        f'--precision "{point.precision}" --period {point.period} --policy relative '
        f"--threshold {point.threshold:.4g}"
    )


def _print(curve: Curve, judge: Judge) -> None:
    """The curve as a table."""
    typer.echo(f"drop: points of {judge.measure}; W8A8 frames score {judge.baseline:.2f}")
    table = Table("precision", "T", "ρ", "drop", "bits", "active", "BOPs saved", "ms", "")
    for point in (*curve.points, *curve.hold):
        is_hold = point.precision.is_hold
        table.add_row(
            str(point.precision),
            str(point.period),
            "hold" if is_hold else f"{point.threshold:.4g}",
            f"{point.drop:.2f}",
            f"{point.mean_bits:.2f}",
            f"{point.active_fraction:.2f}",
            f"{point.saving:.1%}",
            f"{point.ms:.0f}",
            _mark(curve, point),
        )
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 100)
    console.print(table)
    if curve.best is not None and curve.w8a8_ms is not None:
        typer.echo(
            f"best: {curve.best.ms:.0f} ms per frame beside {curve.w8a8_ms:.0f} ms for W8A8 "
            "frames, measured in turn on this machine"
        )


def _mark(curve: Curve, point: Point) -> str:
    if point == curve.best:
        return "best"
    return "" if curve.goal.met(point) else "over"


def _write(path: Path, facts: dict[str, Any], curve: Curve, judge: Judge) -> None:
    """The curve as JSON, and a plot of it beside where matplotlib is there."""
    content = facts | {
        "goal": {str(curve.goal.limit): curve.goal.value},
        "drop_is": judge.measure,
        "w8a8_score": judge.baseline,
        "w8a8_ms": curve.w8a8_ms,
        "best": None if curve.best is None else _plain(curve.best),
        "points": [_plain(point) for point in curve.points],
        "hold": [_plain(point) for point in curve.hold],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), "utf-8")
    if find_spec("matplotlib") is not None:
        plot_curve(content, path.with_suffix(".png"))


def _plain(point: Point) -> dict[str, Any]:
    """A point as JSON holds it."""
    return asdict(point) | {"precision": str(point.precision), "saving": point.saving}


def _save(
    out: Path, model: QuantizedModel | QuantizedStm, card: ModelCard, best: Point, how: str
) -> None:
    """Write a model whose defaults are the best setting; a folder gets a card as well."""
    options = model.options.but(period=best.period, policy="relative", threshold=best.threshold)
    tuned = model.with_precision(best.precision).with_options(options)
    if out.suffix == ".resq":
        out.parent.mkdir(parents=True, exist_ok=True)
        tuned.save(out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        tuned.save(out / f"{out.name}.resq")
        first = str(best.precision)
        changes = {
            "name": out.name,
            "training": f"{card.training} Period and threshold {how}.",
            "precisions": (first, *(p for p in card.precisions if p != first)),
        }
        new = card.model_copy(update=changes)
        (out / "card.json").write_text(new.model_dump_json(indent=1), "utf-8")
    typer.echo(f"{out}: T = {best.period}, ρ = {best.threshold:.4g}")
