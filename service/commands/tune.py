"""`resq tune`: the period and threshold that a clip of your own allows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from resq_core.backends import Backend
from resq_core.errors import CalibrationError, OptionError, PrecisionError
from resq_core.naming import not_known
from service.commands.shared import (
    Box,
    Device,
    Json,
    Masks,
    frames_bar,
    model_names,
    people_read_stderr,
    print_json,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from resq_core import Precision, QuantizedModel
    from resq_core.pipelines import QuantizedStm
    from resq_core.tuning import Bench, Curve, Goal, LayerTuning, Limit, Opener, Point
    from resq_core.zoo import ModelCard
    from service.commands.tuning_material import Material

__all__ = ["tune"]

_WHOLE = slice(None)


def tune(
    clip: Annotated[Path, typer.Option(help="A video file like those you will run.")],
    model: Annotated[
        str,
        typer.Option(help="Model of the zoo or of RESQ_MODELS_DIR.", autocompletion=model_names),
    ] = "street",
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
    box: Box = None,
    masks: Masks = None,
    backend: Annotated[Backend | None, typer.Option(help="Else RESQ_BACKEND, or auto.")] = None,
    device: Device = None,
    curve_file: Annotated[
        Path | None, typer.Option("--curve", help="Write the curve here, as JSON.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Fit a factor on the threshold per group of layers.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the tuned model: X.resq, or DIR.")] = None,
    as_json: Json = False,
) -> None:
    """Find the period and the policy threshold for a clip, within one goal."""
    from resq_core import QuantizedModel
    from resq_core.pipelines import QuantizedStm
    from resq_core.tuning import MOST_PER_PERIOD, Limit, periods_for, search
    from service.commands import tuning_report as told
    from service.commands.tuning_material import Material, stream_opener
    from service.config import load_config
    from service.local_engine import open_shelves, shelf_models

    goal = _goal({Limit.DROP: max_drop, Limit.BOPS: max_bops, Limit.MS: max_ms})
    asked = None if periods is None else _numbers(periods)
    config = load_config(backend=backend, device=device)
    shelves = open_shelves(config.models_dir)
    offered = shelf_models(*shelves, backend=config.backend, device=config.device)
    if model not in offered:
        raise OptionError(not_known("no model is", model, offered))
    card, quantized = offered[model].card, offered[model].load()
    if layers and (out is None or isinstance(quantized, QuantizedStm)):
        raise OptionError(
            "layers are tuned for segmentation and pose models, and live in a saved one; "
            "expected --out as well"
        )
    if layers and isinstance(quantized, QuantizedModel):  # factors of an earlier tuning
        quantized = quantized.with_options(quantized.options.but(factors={}))
    material = Material(card, clip, start, frames, labels)
    tried = periods_for(len(material), asked)
    precisions = [_offered(text, card, quantized) for text in precision or ()]
    precisions = precisions or [quantized.precision]
    opener = stream_opener(quantized, card, box, masks)
    fitted: LayerTuning | None = None
    with frames_bar(Console(stderr=True)) as bar:
        line = bar.add_task("W8A8 frames", total=len(precisions) * len(tried) * MOST_PER_PERIOD)
        bench = material.bench(quantized, opener, _WHOLE)

        def report(p: Point) -> None:
            bar.update(line, advance=1, description=f"T = {p.period}, ρ = {p.threshold:.3g}")

        curve = search(bench, precisions, goal, tried, report)
        bar.update(line, completed=1, total=1)
        if layers and curve.best is not None and isinstance(quantized, QuantizedModel):
            fitted = _layers(quantized, card, material, opener, curve.best, bar)
    facts = {"model": model, "clip": str(clip), "start": start, "frames": len(material)}
    facts["backend"] = bench.backend
    content = told.curve_content(facts, curve, bench.judge, fitted)
    with people_read_stderr(as_json):
        told.print_curve(curve, bench)
        if curve_file is not None:
            told.write_curve(curve_file, content)
        best, factors = _chosen(bench, curve, fitted)
        if not factors:
            typer.echo(f"resq run {clip} --out out --model {model} {told.as_options(best)}")
        if out is not None:
            how = f"tuned by resq tune on {clip.name}, {goal.limit} {goal.value:g}"
            told.save_tuned(out, quantized, card, best, factors, how)
    if as_json:
        print_json(content)


def _layers(
    model: QuantizedModel,
    card: ModelCard,
    material: Material,
    opener: Opener,
    best: Point,
    bar: Progress,
) -> LayerTuning:
    """Factors by layer, fitted on one half of the frames and compared on the other."""
    import torch

    from resq_core.tuning import group_layers, layer_runs, tune_layers

    groups = group_layers(list(model.macs(torch.zeros(1, 3, *card.input_size))))
    line = bar.add_task("layers", total=layer_runs(len(groups)))
    half = len(material) // 2
    fit, held = (material.bench(model, opener, s) for s in (slice(half), slice(half, None)))
    return tune_layers(fit, held, best, groups, lambda: bar.update(line, advance=1))


def _chosen(
    bench: Bench, curve: Curve, fitted: LayerTuning | None
) -> tuple[Point, Mapping[str, float]]:
    """The setting to recommend, and its factors by layer. OptionError where none keeps the goal."""
    from service.commands.tuning_report import as_options, in_words

    best, goal = curve.best, curve.goal
    if best is None:
        near = curve.closest
        raise OptionError(
            f"no setting keeps {goal.limit} {goal.value:g}: the closest has {goal.of(near):.3g}, "
            f"with {as_options(near)}; expected a looser bound, or other --periods or --precision"
        )
    if fitted is None:
        return best, {}
    typer.echo(in_words(fitted))
    if not fitted.pays:
        return best, {}
    layered = bench.measure(best.precision, best.period, fitted.layered.threshold, fitted.factors)
    if not goal.met(layered) or layered.cost >= best.cost:
        typer.echo("on all frames they do not hold what they did there, and are left out")
        return best, {}
    typer.echo(
        f"with factors, on all frames: drop {layered.drop:.2f}, {layered.mean_bits:.2f} bits, "
        f"active {layered.active_fraction:.2f}, {layered.saving:.1%} of BOPs saved"
    )
    return layered, fitted.factors


def _offered(text: str, card: ModelCard, quantized: QuantizedModel | QuantizedStm) -> Precision:
    try:
        return quantized.with_precision(text).precision
    except (PrecisionError, CalibrationError) as error:
        raise type(error)(card.offers(text, error)) from error


def _goal(values: dict[Limit, float | None]) -> Goal:
    from resq_core.tuning import Goal, Limit

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
