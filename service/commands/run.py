"""`resq run`: a clip through ResQ without a server."""

from __future__ import annotations

import base64
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from resq_core.backends import Backend
from resq_core.errors import OptionError
from service.commands.shared import (
    Box,
    Device,
    Json,
    Masks,
    Period,
    Policy,
    PrecisionText,
    Reference,
    Threshold,
    frames_bar,
    model_names,
    print_json,
)

__all__ = ["run"]


def run(
    clip: Annotated[Path, typer.Argument(help="A video file.")],
    out: Annotated[Path, typer.Option(help="Folder for annotated.mp4 and results.ndjson.")],
    model: Annotated[
        str, typer.Option(help="Model of the zoo.", autocompletion=model_names)
    ] = "street",
    precision: PrecisionText = None,
    period: Period = None,
    threshold: Threshold = None,
    reference: Reference = None,
    policy: Policy = None,
    box: Box = None,
    masks: Masks = None,
    max_frames: Annotated[int | None, typer.Option(help="Stop after this many frames.")] = None,
    backend: Annotated[Backend | None, typer.Option(help="Else RESQ_BACKEND, or auto.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Run a clip frame by frame and write what came out; RESQ_MODELS_DIR adds your models."""
    from service.clip_work import ClipWork, tidy
    from service.config import load_config
    from service.decoder import open_clip
    from service.engine import StreamSpec
    from service.local_engine import LocalEngine, open_shelves, shelf_models
    from service.messages import PoseStart, VosStart, parse_box

    if max_frames is not None and max_frames < 1:
        raise OptionError(f"max-frames is {max_frames}; expected 1 or more")
    pose = None if box is None else PoseStart(box=parse_box(box))
    vos = None if masks is None else VosStart(png=base64.b64encode(masks.read_bytes()).decode())
    spec = StreamSpec(model, precision, period, threshold, policy, reference, pose, vos)
    config = load_config(backend=backend, device=device)
    shelves = open_shelves(config.models_dir)
    models = shelf_models(*shelves, backend=config.backend, device=config.device)
    engine = LocalEngine(models, max_active=config.max_active)
    errors = Console(stderr=True)
    with (
        closing(ClipWork(engine, spec, open_clip(clip), out)) as work,
        frames_bar(errors) as bar,
    ):
        total = min(filter(None, (work.expected, max_frames)), default=None)
        line = bar.add_task(clip.name, total=total)
        while work.frames != max_frames and work.advance():
            text = f"{work.fps:.1f} fps, saving {work.totals.saving:.0%}"
            bar.update(line, advance=1, description=text)
        report = work.finish()
    tidy(out)
    if report["damaged_packets"]:
        errors.print(f"{report['damaged_packets']} damaged packets in {clip.name} gave no picture")
    if as_json:
        print_json(report | {"out": str(out)})
        return
    typer.echo(
        f"{report['results']} frames, {report['anchors']} keyframes, {report['fps']:.1f} fps, "
        f"BOP saving {report['bop_saving']:.1%}, {report['mean_bits']:.2f} mean bits, "
        f"{report['backend']} -> {out}"
    )
