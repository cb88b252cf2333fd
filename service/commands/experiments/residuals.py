"""`resq experiment residuals`: are residuals easier to quantize than frames? (Fig. 2)"""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.charts import Line, Lines, draw_lines
from service.commands.experiments.options import ClipPath, Frames, ModelName, Out
from service.commands.experiments.report import report
from service.commands.shared import Json, frames_bar

__all__ = ["residuals"]


def residuals(
    clip: ClipPath,
    model: ModelName = "street",
    distance: Annotated[
        list[int] | None, typer.Option(help="Frames from keyframe to frame; 1 and 7.")
    ] = None,
    bits: Annotated[int, typer.Option(help="Of the quantizers whose errors are compared.")] = 4,
    frames: Frames = 32,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fig. 2: variances and quantization errors of residuals beside those of frames."""
    from resq_core.experiments import residual_statistics
    from service.commands.experiments.setting import open_model, read_pictures

    card, quantized = open_model(model)
    task = card.segmentation()
    distances = distance or [1, 7]
    inputs = [task.preprocess(picture) for picture in read_pictures(clip, frames)]
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
    table = Table("frames apart", "variance, residual / frame", f"error at {bits} bits", "layers")
    for entry in content["distances"]:
        table.add_row(
            str(entry["distance"]),
            *(_shares(entry["layers"], what) for what in ("variance", "error")),
            str(len(entry["layers"])),
        )
    charts = [_chart(content, what) for what in ("variance", "error")]
    report("residuals", content, table, out, as_json, lambda path: draw_lines(charts, path))


def _ratios(layers: list[dict[str, Any]], what: str) -> list[float]:
    return [x[f"residual_{what}"] / max(x[f"frame_{what}"], 1e-30) for x in layers]


def _shares(layers: list[dict[str, Any]], what: str) -> str:
    """Median over the layers, and how many are below one."""
    ratios = _ratios(layers, what)
    return f"{median(ratios):.2f} (below 1 in {sum(r < 1 for r in ratios)})"


def _chart(content: dict[str, Any], what: str) -> Lines:
    lines = [
        Line(
            f"\u0394t = {entry['distance']}",
            list(enumerate(_ratios(entry["layers"], what))),
            joined=False,
        )
        for entry in content["distances"]
    ]
    titles = {"variance": "variance", "error": f"error at {content['bits']} bits"}
    return Lines(
        titles[what],
        "layer, in order",
        "residual / frame",
        lines,
        levels=[("equal", 1.0)],
        whole=True,
        log=True,
    )
