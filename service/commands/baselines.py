"""`resq experiment baselines`: every comparator and every variant of ours in one table."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from resq_core.backends import Backend
from resq_core.errors import InputError, OptionError
from resq_core.naming import not_known
from service.commands.baselines_report import print_rows, write_plot
from service.commands.shared import Json, frames_bar, model_names, print_json

if TYPE_CHECKING:
    from resq_core import QuantizedModel
    from resq_core.rivals import Row
    from resq_core.tasks.pictures import Picture
    from resq_core.zoo import ModelCard

    Sample = tuple[Picture, Picture]

__all__ = ["baselines"]

_PRECISIONS = (
    *("W8A8", "W8A4", "W4A4", "W3A3"),
    *("W8A8->W4A8", "W8A8->W8A4", "W8A8->W4A4", "W8A8->W3A3", "W4A4->W3A3"),
    *("W8A8->W8A{0,4,8}", "W8A8->W4A{0,4,8}"),
)
_THRESHOLDS = (0.03, 0.1, 0.12, 0.2, 0.4)
_SKIP_THRESHOLDS = (1.0, 2.0, 3.0, 8.0)
_BUDGETS = (0.04, 0.08)


def baselines(
    root: Annotated[Path, typer.Option(help="Folder of CamVid's layout.")],
    split: Annotated[str, typer.Option(help="A clip whose frames all have labels.")] = "clip_15hz",
    model: Annotated[
        str,
        typer.Option(help="Of the package or RESQ_MODELS_DIR.", autocompletion=model_names),
    ] = "street",
    precision: Annotated[
        list[str] | None, typer.Option(help="May be given again; frames, static and dynamic.")
    ] = None,
    period: Annotated[int, typer.Option(help="T, frames from keyframe to keyframe.")] = 3,
    threshold: Annotated[list[float] | None, typer.Option(help="ρ of dynamic ones.")] = None,
    skip_threshold: Annotated[
        list[float] | None, typer.Option(help="ε of Skip-Convolutions, shares of mean‖z^k‖.")
    ] = None,
    budget: Annotated[
        list[float] | None, typer.Option(help="Of the oracle, shares of places.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Random orders of the oracle's choices.")] = 3,
    head: Annotated[
        str | None, typer.Option(help="Also warp the input of this layer, one of the last.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Of the clip; else all.")] = None,
    backend: Annotated[Backend | None, typer.Option(help="Else RESQ_BACKEND, or auto.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="X.json, and X.png beside it; rows in it are not run again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Float, frame quantization, hold, ResQ, and what others do, on a labelled clip.

    Skip-Convolutions, warping along optical flow, and one precision per frame by an oracle and at
    random. Each row is written to --out when it is done, and an interrupted table goes on there.
    """
    import torch

    from resq_core import Precision
    from resq_core.rivals import Settings, plan

    settings = Settings(
        tuple(map(Precision.parse, precision or _PRECISIONS)),
        period,
        tuple(threshold or _THRESHOLDS),
        tuple(skip_threshold or _SKIP_THRESHOLDS),
        tuple(budget or _BUDGETS),
        seeds,
    )
    card, quantized = _model(model, backend)
    clip = _clip(root, split, frames)
    example = torch.zeros(1, 3, *card.input_size)
    rows = plan(quantized, settings, example, head)
    options = {
        "model": model,
        "fingerprint": _fingerprint(quantized),
        "split": split,
        "frames": len(clip),
        "period": period,
        "backend": quantized.serving(example).backend,
    }
    table = _Table(options, out)
    with frames_bar(Console(stderr=True)) as bar:
        _run(rows, table, card, clip, bar)
    content = table.content(rows)
    if out is not None:
        write_plot(content, out.with_suffix(".png"))
    if as_json:
        print_json(content)
    else:
        print_rows(content)


def _model(name: str, backend: Backend | None) -> tuple[ModelCard, QuantizedModel]:
    from resq_core import QuantizedModel
    from service.config import load_config
    from service.local_engine import open_shelves, shelf_models

    config = load_config(backend=backend)
    offered = shelf_models(*open_shelves(config.models_dir), backend=config.backend)
    if name not in offered:
        raise OptionError(not_known("no model is", name, offered))
    card, loaded = offered[name].card, offered[name].load()
    if card.task != "segmentation" or not isinstance(loaded, QuantizedModel):
        raise OptionError(f"{name} does {card.task}; expected a model of segmentation")
    return card, loaded


def _clip(root: Path, split: str, frames: int | None) -> list[Sample]:
    from resq_core.evaluation import CamVid

    if frames is not None and frames < 1:
        raise OptionError(f"frames is {frames}; expected at least 1")
    return list(islice(CamVid(root, split), frames))


def _fingerprint(model: QuantizedModel) -> str:
    """Of weights, scales and options."""
    crc = 0
    for tensor in model.module.state_dict().values():
        crc = zlib.crc32(tensor.contiguous().numpy().tobytes(), crc)
    rest = json.dumps([model.encodings.to_json(), model.saved_options()])
    return f"{zlib.crc32(rest.encode(), crc):08x}"


class _Table:
    """Rows that are done, by key, in memory and in a file where there is one.

    Raises:
        OptionError: the file holds rows of other options.
        InputError: it is not a table.
    """

    def __init__(self, options: dict[str, Any], path: Path | None) -> None:
        self._options, self._path = options, path
        self.rows: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return
        try:
            known = json.loads(path.read_text("utf-8"))
            found, rows = dict(known["options"]), {row["key"]: row for row in known["rows"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a table of baselines: {error}") from error
        other = [f"{k} {found.get(k)}, here {v}" for k, v in options.items() if found.get(k) != v]
        if other:
            raise OptionError(
                f"{path} holds rows of other options ({'; '.join(other)}); name another --out"
            )
        self.rows = rows

    def add(self, row: Row, score: dict[str, Any]) -> None:
        """Note a row that is done."""
        from service.durable import write_in_place

        about = {"key": row.key, "method": row.method, "precision": row.precision}
        self.rows[row.key] = {**about, "setting": row.setting, **score, "choices": row.choices}
        if self._path is not None:
            content = {"options": self._options, "rows": list(self.rows.values())}
            write_in_place(self._path, json.dumps(content, indent=1))

    def content(self, rows: list[Row]) -> dict[str, Any]:
        """What is printed: the options, and the rows that were asked for."""
        return {"options": self._options, "rows": [self.rows[row.key] for row in rows]}


def _run(
    rows: list[Row], table: _Table, card: ModelCard, clip: list[Sample], bar: Progress
) -> None:
    """Run the rows that are not in the table."""
    from resq_core.evaluation import evaluate_clip
    from resq_core.experiments.steps import counted

    task, line = card.segmentation(), bar.add_task("rows", total=len(rows) * len(clip))
    for row in rows:
        bar.update(line, description=row.key)
        if row.key in table.rows:
            row.choices[:] = table.rows[row.key]["choices"]
            bar.advance(line, len(clip))
            continue
        step = counted(row.open_step, lambda: bar.advance(line))
        score = evaluate_clip(step, clip, task, card.ignore_index)
        table.add(row, asdict(score))
