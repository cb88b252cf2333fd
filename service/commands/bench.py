"""`resq bench`: how long a frame takes on this machine, beside float PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from resq_core.backends import Backend
from resq_core.backends.machine import processor_name
from resq_core.errors import InputError
from service.commands.shared import Json, frames_bar, print_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["bench"]

_MODEL = "street"
_PERIOD = 8
_WARM = 2  # frames that are not counted


def bench(
    clip: Annotated[Path | None, typer.Option(help="A video file; else two drawn streets.")] = None,
    frames: Annotated[int, typer.Option(help="Of each clip.", min=2 * _PERIOD, max=10_000)] = 48,
    threads: Annotated[int | None, typer.Option(help="Of PyTorch and ours.", min=1)] = None,
    backend: Annotated[Backend | None, typer.Option(help="Else RESQ_BACKEND, or auto.")] = None,
    as_json: Json = False,
) -> None:
    """Time the street model: float PyTorch, every frame a W8A8 keyframe, and ResQ with T = 8.

    All take the same frames in turn, so that whatever else the machine does meets them alike; the
    figures are medians. Other runtimes: `make bench` in the source tree.
    """
    import torch

    from service.config import load_config

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = load_config(backend=backend).backend
    with TemporaryDirectory() as folder:
        paths = _drawn(Path(folder), frames) if clip is None else {clip.name: clip}
        clips = {name: _inputs(path, frames) for name, path in paths.items()}
    rows = []
    with frames_bar(Console(stderr=True)) as bar:
        for name, inputs in clips.items():
            if len(inputs) < 2 * _PERIOD:
                least = 2 * _PERIOD
                raise InputError(f"{name} has {len(inputs)} frames; expected {least} or more")
            line = bar.add_task(name, total=len(inputs))
            row = {"clip": name, "frames": len(inputs), "period": _PERIOD}
            rows.append(row | _measure(inputs, str(chosen), partial(bar.advance, line)))
    facts = {"processor": processor_name(), "threads": torch.get_num_threads(), "model": _MODEL}
    if as_json:
        print_json(facts | {"clips": rows})
        return
    _print(facts, rows)


def _drawn(folder: Path, frames: int) -> dict[str, Path]:
    """Two streets as `resq world` draws them: videos, with what a codec does to noise."""
    from resq_core.world import Street
    from service.commands.world import draw_clip

    found = {}
    for camera in ("static", "moving"):
        path = found[f"street, {camera} camera"] = folder / f"{camera}.mp4"
        draw_clip(path, Street(camera=camera), frames)
    return found


def _inputs(path: Path, frames: int) -> list[Tensor]:
    """The network's inputs."""
    from resq_core import zoo
    from service.decoder import open_clip

    task = zoo.card(_MODEL).segmentation()
    with open_clip(path) as video:
        return [task.preprocess(frame.image) for frame in islice(video, frames)]


def _measure(
    frames: Sequence[Tensor], backend: str, progress: Callable[[], object]
) -> dict[str, Any]:
    """Milliseconds in turn, and what the ResQ stream reports. Float is PyTorch's eager network,
    not the captured graph."""
    import torch

    from resq_core import models, zoo

    quantized = zoo.load(_MODEL, backend=backend)
    network = models.build("ddrnet23_slim", num_classes=11, aux_head=True).eval()
    dense, resq = quantized.with_precision("W8A8").stream(), quantized.stream(period=_PERIOD)
    runs: dict[str, Callable[[Tensor], Any]] = {
        "float": network,
        "keyframe": dense.step,
        "resq": resq.step,
    }
    spent: dict[str, list[float]] = {name: [] for name in (*runs, "residual")}
    active: list[float] = []
    with torch.inference_mode():
        for index, frame in enumerate(frames):
            for name, run in runs.items():
                start = time.perf_counter()
                result = run(frame)
                took = 1000 * (time.perf_counter() - start)
                if index >= _WARM:
                    spent[name].append(took)
            if not result.is_anchor and index >= _WARM:
                spent["residual"].append(spent["resq"][-1])
                active.append(result.active_fraction)
            progress()
    return {
        "backend": result.backend,
        "milliseconds": {name: round(statistics.median(ms), 1) for name, ms in spent.items()},
        "resq_mean_ms": round(statistics.mean(spent["resq"]), 1),
        "active_fraction": round(statistics.mean(active), 4),
        "mean_bits": round(resq.totals.mean_bits, 3),
        "bop_saving": round(resq.totals.saving, 4),
    }


def _print(facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    columns = ("clip", "float", "W8A8 keyframe", "residual", "ResQ mean", "active", "BOPs saved")
    title = f"ms per frame, {facts['processor']}, {facts['threads']} threads, {rows[0]['backend']}"
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    for row in rows:
        ms = row["milliseconds"]
        table.add_row(
            row["clip"],
            f"{ms['float']:.1f}",
            f"{ms['keyframe']:.1f}",
            f"{ms['residual']:.1f}",
            f"{row['resq_mean_ms']:.1f}",
            f"{row['active_fraction']:.0%}",
            f"{row['bop_saving']:.1%}",
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 110)
    console.print(table)
    console.print(
        "float: PyTorch, eager. Time follows the pixels that change (active), see `resq tune`. "
        "Other runtimes: make bench, in the source tree."
    )
