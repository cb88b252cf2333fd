"""`resq experiment`: the paper's experiments on a clip of one's own."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from resq_core.errors import OptionError
from resq_core.naming import not_known
from service.commands.shared import Json, frames_bar, model_names, print_json

__all__ = ["experiment"]

experiment = typer.Typer(
    help="The paper's experiments on a clip of your own.", no_args_is_help=True
)


@experiment.callback()
def _group() -> None:
    pass


@experiment.command()
def residuals(
    clip: Annotated[Path, typer.Argument(help="A video file.")],
    model: Annotated[
        str, typer.Option(help="Segmentation model of the package.", autocompletion=model_names)
    ] = "street",
    distance: Annotated[
        list[int] | None, typer.Option(help="Frames from keyframe to frame; 1 and 7.")
    ] = None,
    bits: Annotated[int, typer.Option(help="Of the quantizers whose errors are compared.")] = 4,
    frames: Annotated[int, typer.Option(help="Of the clip.")] = 32,
    out: Annotated[Path | None, typer.Option(help="X.json, and X.png beside it.")] = None,
    as_json: Json = False,
) -> None:
    """Fig. 2: variances and quantization errors of residuals beside those of frames."""
    from resq_core import QuantizedModel, zoo
    from resq_core.experiments import residual_statistics
    from service.decoder import open_clip
    from service.plots import plot_residuals

    if model not in zoo.names():
        raise OptionError(not_known("no model is", model, zoo.names()))
    card, quantized = zoo.card(model), zoo.load(model)
    assert isinstance(quantized, QuantizedModel)
    task = card.segmentation()
    distances = distance or [1, 7]
    with open_clip(clip) as video:
        inputs = [task.preprocess(frame.image) for frame in islice(video, frames)]
    content: dict[str, Any] = {"model": model, "clip": str(clip), "frames": len(inputs)}
    content |= {"bits": bits, "distances": []}
    with frames_bar(Console(stderr=True)) as bar:
        line = bar.add_task("distances", total=len(distances))
        for apart in distances:
            layers = residual_statistics(quantized, inputs, apart, bits)
            content["distances"].append(
                {"distance": apart, "layers": [asdict(layer) for layer in layers]}
            )
            bar.advance(line)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1), "utf-8")
        if find_spec("matplotlib") is not None:
            plot_residuals(content, out.with_suffix(".png"))
    if as_json:
        print_json(content)
        return
    table = Table("frames apart", "variance, residual / frame", f"error at {bits} bits", "layers")
    for entry in content["distances"]:
        table.add_row(
            str(entry["distance"]),
            *(_shares(entry["layers"], what) for what in ("variance", "error")),
            str(len(entry["layers"])),
        )
    Console().print(table)


def _shares(layers: list[dict[str, Any]], what: str) -> str:
    """Median over the layers, and how many are below one."""
    shares = [x[f"residual_{what}"] / max(x[f"frame_{what}"], 1e-30) for x in layers]
    return f"{median(shares):.2f} (below 1 in {sum(s < 1 for s in shares)})"
