"""`resq experiment policy`: where the bits go, by distance to the keyframe (Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from resq_core.backends import Backend
from resq_core.errors import InputError, OptionError
from resq_core.naming import not_known
from service.charts import Line, Lines, draw_lines
from service.commands.experiments.options import ClipPath, Frames, ModelName, Out
from service.commands.experiments.report import report
from service.commands.shared import Json, Reference, Threshold, frames_bar

if TYPE_CHECKING:
    from resq_core import QuantizedModel
    from resq_core.experiments import LayerBits
    from resq_core.stream import StreamOptions
    from resq_core.tasks.pictures import Picture
    from resq_core.zoo import ModelCard

    Bits = dict[str, LayerBits]

__all__ = ["policy"]

_CELL_HEIGHT = 120  # pixels on the sheet
_CHOSEN = 4  # layers that are shown where none is named
_COARSEST = 8  # input pixels per pixel of a layer that is worth showing


def policy(
    clip: ClipPath,
    model: ModelName = "street",
    precision: Annotated[str, typer.Option(help="A dynamic one.")] = "W8A8->W8A{0,4,8}",
    distances: Annotated[int, typer.Option(help="Frames after each keyframe.", min=1)] = 6,
    layer: Annotated[
        list[str] | None, typer.Option(help="To be shown; may be given again. Else some.")
    ] = None,
    reference: Reference = "keyframe",
    form: Annotated[
        str | None, typer.Option("--policy", help="paper or relative; else the model's.")
    ] = None,
    threshold: Threshold = None,
    frames: Frames = 32,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fig. 6: maps of the policy's decisions, and the share of each bit-width by distance.

    The maps are of the clip's first sequence, the shares of all that fit. Always plain PyTorch.
    """
    from resq_core.experiments.steps import residual_precision
    from service.commands.experiments.setting import open_model, read_pictures

    parsed = residual_precision(precision)
    if not parsed.is_dynamic:
        raise OptionError(f"precision is {parsed}; expected a dynamic one, as W8A8->W8A{{0,4,8}}")
    card, quantized = open_model(model, Backend.REFERENCE)
    quantized = quantized.with_precision(parsed)
    options = quantized.options.but(reference=reference, policy=form, threshold=threshold)
    pictures = read_pictures(clip, frames)
    with frames_bar(Console(stderr=True)) as bar:
        found = _run(quantized, card, pictures, distances + 1, options, bar)
    chosen = _checked(layer, found[0][0]) if layer else _some(found[0][0], card.input_size[0])
    content: dict[str, Any] = {
        "model": model,
        "clip": str(clip),
        "frames": len(found) * (distances + 1),
        "sequences": len(found),
        "precision": str(parsed),
        "reference": str(options.reference),
        "policy": str(options.policy.form),
        "threshold": options.policy.threshold,
        "distances": [_shares(found, d, parsed.pool, chosen) for d in range(distances)],
    }
    table = Table("frames after the keyframe", *(f"{bits} bits" for bits in parsed.pool))
    for entry in content["distances"]:
        table.add_row(str(entry["distance"]), *(f"{s:.1%}" for s in entry["shares"].values()))
    chart = _chart(content)
    report(
        "policy",
        content,
        table,
        out,
        as_json,
        lambda path: draw_lines([chart], path),
        lambda path: _draw(pictures[1 : distances + 1], found[0], chosen, path),
    )


def _run(
    model: QuantizedModel,
    card: ModelCard,
    pictures: Sequence[Picture],
    length: int,
    options: StreamOptions,
    bar: Progress,
) -> list[list[Bits]]:
    """Decisions frame by frame of every whole sequence of the clip."""
    from resq_core.experiments import sequence_bits

    starts = range(0, len(pictures) - length + 1, length)
    if not starts:
        raise InputError(
            f"the clip gives {len(pictures)} frames; expected at least {length}, a keyframe and "
            f"{length - 1} after it"
        )
    task = card.segmentation()
    found: list[list[Bits]] = []
    line = bar.add_task("sequences", total=len(starts))
    for start in starts:
        inputs = [task.preprocess(p) for p in pictures[start : start + length]]
        found.append(sequence_bits(model, inputs, options))
        bar.advance(line)
    return found


def _checked(layers: Sequence[str], known: Bits) -> list[str]:
    for name in layers:
        if name not in known:
            raise OptionError(not_known("no layer is", name, known))
    return list(layers)


def _some(known: Bits, height: int) -> list[str]:
    """Layers spread over the network, of those that are not too coarse to look at."""
    import numpy as np

    names = [name for name, x in known.items() if x.bits.shape[0] * _COARSEST >= height]
    names = names or list(known)
    places = np.linspace(0, len(names) - 1, min(_CHOSEN, len(names))).round().astype(int)
    return [names[i] for i in places]


def _shares(
    found: Sequence[Sequence[Bits]], place: int, pool: Sequence[int], chosen: Sequence[str]
) -> dict[str, Any]:
    """Means over the sequences, of all layers and of those that are shown."""
    import numpy as np

    from resq_core.experiments import bit_shares

    def mean(select: Sequence[str] | None) -> dict[str, float]:
        each = []
        for sequence in found:
            layers = sequence[place]
            each.append(bit_shares({n: layers[n] for n in select or layers}, pool))
        return {str(b): float(np.mean([shares[b] for shares in each])) for b in pool}

    return {
        "distance": place + 1,
        "shares": mean(None),
        "layers": {name: mean([name]) for name in chosen},
    }


def _draw(
    pictures: Sequence[Picture], sequence: Sequence[Bits], chosen: Sequence[str], path: Path
) -> None:
    """A column for each frame after the keyframe, a row for each layer."""
    from service.sheets import draw_bits, draw_sheet

    rows: list[tuple[str, list[Picture]]] = [("frame", list(pictures))]
    for name in chosen:
        rows.append((name, [draw_bits(layers[name].bits) for layers in sequence]))
    height, width = pictures[0].shape[:2]
    captions = [f"keyframe + {d + 1}" for d in range(len(pictures))]
    draw_sheet(captions, rows, path, (_CELL_HEIGHT, _CELL_HEIGHT * width // height))


def _chart(content: Mapping[str, Any]) -> Lines:
    entries = content["distances"]
    lines = [
        Line(f"{bits} bits", [(e["distance"], 100 * e["shares"][bits]) for e in entries])
        for bits in entries[0]["shares"]
    ]
    about = f"{content['policy']} policy, threshold {content['threshold']:g}"
    title = f"{content['precision']}, {content['reference']}, {about}"
    return Lines(title, "frames after the keyframe", "pixels, % (by MACs)", lines, whole=True)
