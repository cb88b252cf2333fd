"""What an experiment runs on: a model and a clip, with labels or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from resq_core import QuantizedModel
from resq_core.backends import Backend
from resq_core.errors import InputError, OptionError
from resq_core.evaluation import CamVid
from resq_core.experiments import Run, Trial, float_classes
from resq_core.naming import not_known
from resq_core.tasks.pictures import Picture, read_picture
from resq_core.zoo import ModelCard, Shelf
from service.commands.shared import picture_files
from service.commands.tuning_material import read_labels
from service.config import load_config
from service.decoder import open_clip
from service.local_engine import open_shelves, shelf_models

__all__ = [
    "Setting",
    "open_model",
    "open_setting",
    "read_pictures",
    "score",
]


@dataclass(frozen=True, slots=True)
class Setting:
    """A model and a clip to score it on.

    Attributes:
        card: of the model.
        trial: what runs them.
        labelled: whether labels are what is right, or else the float network.
        measure: what accuracy is here, for people.
        facts: of model and clip, as the report has them.
    """

    card: ModelCard
    trial: Trial
    labelled: bool
    measure: str
    facts: dict[str, Any]


def open_model(
    name: str, backend: Backend | None = None, path: Path | None = None
) -> tuple[ModelCard, QuantizedModel]:
    """A segmentation model by its name, of a folder of models where `path` names one.

    Raises:
        OptionError: there is none of that name, or it does something else.
        SavedModelError: its file is damaged.
    """
    config = load_config(backend=backend)
    shelves = open_shelves(config.models_dir) if path is None else [Shelf(path)]
    offered = shelf_models(*shelves, backend=config.backend)
    if name not in offered:
        raise OptionError(not_known("no model is", name, offered))
    card = offered[name].card
    if card.task != "segmentation":
        raise OptionError(f"{name} does {card.task}; expected a segmentation model")
    model = offered[name].load()
    assert isinstance(model, QuantizedModel)
    return card, model


def read_pictures(clip: Path, frames: int) -> list[Picture]:
    """The first frames of a video, or pictures of a folder by name, uint8 [H, W, 3] RGB.

    Raises:
        ClipError: the video cannot be read.
        InputError: there is no frame, or a picture cannot be read.
    """
    if clip.is_dir():
        return [read_picture(path, "RGB") for path in picture_files(clip)[:frames]]
    with open_clip(clip) as video:
        found = [frame.image for frame in islice(video, frames)]
    if not found:
        raise InputError(f"{clip} has no frame")
    return found


def open_setting(
    clip: Path, labels: Path | None, model: str, frames: int, bar: Progress
) -> Setting:
    """Read a clip with its labels; without any, the float network's classes are what is right.

    Raises:
        ClipError, InputError: the clip or its labels cannot be used.
        OptionError: see `open_model`.
    """
    card, quantized = open_model(model)
    task = card.segmentation()
    beside = clip.resolve()
    camvid = clip.is_dir() and beside.with_name(f"{beside.name}_labels").is_dir()
    if camvid and labels is None:
        samples = list(islice(CamVid(beside.parent, beside.name), frames))
    else:
        pictures = read_pictures(clip, frames)
        if labels is None:
            line = bar.add_task("float network", total=len(pictures))
            samples = []
            for picture in pictures:
                samples.append((picture, float_classes(quantized, task, picture)))
                bar.advance(line)
        else:
            samples = _labelled(pictures, labels, card.ignore_index)
    labelled = camvid or labels is not None
    measure = "mIoU" if labelled else "mIoU against the float network"
    backend = quantized.serving(torch.zeros(1, 3, *card.input_size)).backend
    facts = {
        "model": model,
        "clip": str(clip),
        "frames": len(samples),
        "measure": measure,
        "backend": backend,
    }
    trial = Trial(quantized, task, samples, card.ignore_index)
    return Setting(card, trial, labelled, measure, facts)


def _labelled(
    pictures: Sequence[Picture], folder: Path, ignore_index: int
) -> list[tuple[Picture, Picture]]:
    """Pictures with labels; frames without one are run and not scored."""
    found = read_labels(folder, 0, len(pictures))
    return [
        (picture, found[i] if i in found else np.full(picture.shape[:2], ignore_index, np.uint8))
        for i, picture in enumerate(pictures)
    ]


def score(
    trial: Trial, runs: Sequence[Run], bar: Progress, phases: Sequence[int] = (0,)
) -> list[dict[str, Any]]:
    """Every run's method, precision, period and score, as JSON holds them. Raises as `Trial.score`.

    mIoU is from 0 to 1, BOPs are means per frame.
    """
    rows: list[dict[str, Any]] = []
    whole = bar.add_task("runs", total=len(runs))
    for run in runs:
        line = bar.add_task(f"{run.method} {run.precision}", total=len(trial) * len(phases))
        found = trial.score(run, phases, partial(bar.advance, line))
        named = {"method": run.method, "precision": run.precision, "period": run.period}
        rows.append(named | asdict(found))
        bar.remove_task(line)
        bar.advance(whole)
    return rows
