"""`resq eval`: accuracy and bit operations of a model on a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from resq_core.backends import Backend
from resq_core.errors import OptionError
from resq_core.naming import not_known
from service.commands.shared import (
    Device,
    Json,
    Reference,
    Threshold,
    frames_bar,
    model_names,
    print_json,
)

if TYPE_CHECKING:
    from resq_core.evaluation import DataSet
    from resq_core.evaluation.scores import Score
    from resq_core.zoo import ModelCard
    from service.commands.evaluation_rows import Model

__all__ = ["evaluate"]


class Layout(StrEnum):
    """Data sets that can be read."""

    CAMVID = "camvid"
    CITYSCAPES = "cityscapes"
    DAVIS2016 = "davis2016"
    DAVIS2017 = "davis2017"
    JHMDB = "jhmdb"
    CLIPS = "clips"


_SPLITS = {Layout.CAMVID: "test", Layout.JHMDB: "1,2,3"}
_OTHER_SPLIT = "val"


def evaluate(
    dataset: Annotated[Layout, typer.Argument(help="Which; clips: any videos, without labels.")],
    root: Annotated[Path, typer.Argument(help="Its folder.")],
    split: Annotated[
        str | None, typer.Option(help="Else test (camvid), 1,2,3 (jhmdb), or val.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="Of the package or RESQ_MODELS_DIR.", autocompletion=model_names),
    ] = "street",
    precision: Annotated[str, typer.Option(help="For example W8A8->W8A{0,4,8}.")] = "W8A8->W8A4",
    period: Annotated[int, typer.Option(help="T, frames of a sequence.")] = 3,
    reference: Reference = None,
    policy: Annotated[str | None, typer.Option(help="paper or relative.")] = None,
    threshold: Threshold = None,
    phases: Annotated[int, typer.Option(help="Average over this many keyframe offsets.")] = 1,
    backend: Annotated[Backend | None, typer.Option(help="Else RESQ_BACKEND, or auto.")] = None,
    device: Device = None,
    state: Annotated[
        Path | None, typer.Option(help="Keeps finished clips; an interrupted call goes on there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score float, frame quantization, hold and ResQ on a data set, by the paper's protocol."""
    from resq_core import Precision
    from resq_core.evaluation import EvaluationState, Evaluator
    from service.commands.evaluation_report import print_report
    from service.commands.evaluation_rows import Rows
    from service.config import load_config
    from service.local_engine import open_shelves, shelf_models

    config = load_config(backend=backend, device=device)
    shelves = open_shelves(config.models_dir)
    offered = shelf_models(*shelves, backend=config.backend, device=config.device)
    if model not in offered:
        raise OptionError(not_known("no model is", model, offered))
    options = {"reference": reference, "policy": policy, "threshold": threshold}
    card, parsed = offered[model].card, Precision.parse(precision)
    loaded = offered[model].load()
    rows = Rows.of(loaded, card, parsed, period, **options)
    if dataset is Layout.CLIPS and phases != 1:
        raise OptionError(f"phases is {phases}; they are for labelled data sets")
    data = _data(dataset, root, split, loaded, card, period)
    about: dict[str, Any] = {
        "dataset": data.name,
        "split": data.split,
        "model": model,
        "precision": str(parsed),
        "period": period,
        "frame_precision": str(rows.frame),
        "backend": rows.backend,
        "truth": "float" if dataset is Layout.CLIPS else "labels",
    }
    file = next(shelf.path(model) for shelf in reversed(shelves) if model in shelf.names())
    kept = EvaluationState(state, about | options | _of(data, root, phases, file))
    with kept, frames_bar(Console(stderr=True)) as bar:
        chosen = [row for row in rows.rows if row.name != "float" or dataset is not Layout.CLIPS]
        evaluator = Evaluator(data, chosen, _score(data, card), period, range(phases), kept)
        lines = {
            row.name: bar.add_task(row.name, total=evaluator.frames(row.name)) for row in chosen
        }
        evaluator.run(lambda row, frames: bar.advance(lines[row], frames))
        found = evaluator.result()
    result = about | {"left_out": dict(rows.left_out)} | found.pop("rows") | found
    if as_json:
        print_json(result)
    else:
        print_report(result, data, [row.name for row in chosen])


def _data(
    layout: Layout, root: Path, split: str | None, model: Model, card: ModelCard, period: int
) -> DataSet:
    """The data set, which the model fits. Raises OptionError, InputError."""
    from resq_core.evaluation import camvid_drives, cityscapes_snippets, davis_clips, jhmdb_clips
    from service.commands.evaluation_clips import unlabelled_clips

    if layout is Layout.CLIPS:
        if split is not None:
            raise OptionError(f"split is {split!r}; clips without labels have none")
        return unlabelled_clips(root, model, card, period)
    split = split or _SPLITS.get(layout, _OTHER_SPLIT)
    opens: dict[Layout, Callable[[], DataSet]] = {
        Layout.CAMVID: partial(camvid_drives, root, split),
        Layout.CITYSCAPES: partial(cityscapes_snippets, root, split),
        Layout.DAVIS2016: partial(davis_clips, root, 2016, split),
        Layout.DAVIS2017: partial(davis_clips, root, 2017, split),
        Layout.JHMDB: partial(jhmdb_clips, root, [part.strip() for part in split.split(",")]),
    }
    data = opens[layout]()
    if card.task != data.task:
        raise OptionError(f"{data.name} is for {data.task}; {card.name} does {card.task}")
    if data.classes is not None and card.classes != data.classes.classes:
        raise OptionError(
            f"{card.name} has the classes {', '.join(card.classes)}; {data.name} has "
            f"{', '.join(data.classes.classes)}"
        )
    if data.joints is not None and card.joint_set != data.joints:
        raise OptionError(f"{card.name} finds the joints {card.joints}; {data.name} has its own 15")
    return data


def _score(data: DataSet, card: ModelCard) -> Callable[[], Score]:
    """Makes empty scores. Against the float network every pixel counts."""
    from resq_core.evaluation import ObjectScore, PoseScore, SegmentationScore

    if data.task == "vos":
        return ObjectScore
    joints = card.joint_set
    if joints is not None:
        return partial(PoseScore, joints.names)
    ignored = None if data.classes is None else data.classes.ignore_index
    return partial(SegmentationScore, card.classes, ignored)


def _of(data: DataSet, root: Path, phases: int, model: Path) -> dict[str, Any]:
    """What else an evaluation's figures depend on."""
    from resq_core.models.checkpoint_files import sha256_of

    names = "\n".join(clip.name for clip in data.clips)
    return {
        "root": str(root.resolve()),
        "clips": hashlib.sha256(names.encode()).hexdigest(),
        "phases": phases,
        "model_sha256": sha256_of(model),
        "version": version("resq"),
    }
