"""What `resq tune` runs on: a clip, its labels, and the streams of a task."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
    Bench,
    Judge,
    LabelledMiou,
    MaskAgreement,
    Opener,
    PixelAgreement,
    PoseAgreement,
)
from resq_core.zoo import ModelCard
from service.decoder import open_clip
from service.messages import parse_box
from service.objects import read_mask_file
from service.pictures import Picture

__all__ = ["Material", "read_labels", "stream_opener"]

Label = NDArray[np.uint8]


class Material:
    """Consecutive frames of a clip, with labels of some of them.

    Raises:
        ClipError: the clip cannot be read.
        InputError: it has no such frames, or the folder holds no label of them, or a bad one.
        OptionError: labels for a model that gives no class ids.
    """

    def __init__(
        self, card: ModelCard, clip: Path, start: int, frames: int, labels: Path | None
    ) -> None:
        if labels is not None and card.task != "segmentation":
            raise OptionError(
                f"labels are class ids; {card.name} does {card.task}, and is tuned without"
            )
        self._card = card
        self._pictures = _pictures(clip, start, frames)
        self._labels = {} if labels is None else read_labels(labels, start, len(self._pictures))

    def __len__(self) -> int:
        return len(self._pictures)

    def bench(self, model: QuantizedModel | QuantizedStm, opener: Opener, part: slice) -> Bench:
        """A bench on a part of the frames. Raises as `Bench` does."""
        indices = range(len(self))[part]
        own = {i - indices[0]: label for i, label in self._labels.items() if i in indices}
        if self._labels and not own:
            raise InputError(
                f"no label is of the frames {indices[0]} to {indices[-1]} of those that run; "
                "expected some in both halves"
            )
        return Bench(
            self._pictures[part],
            opener,
            model.options,
            lambda outputs: _judge(self._card, outputs, own),
        )


def _pictures(clip: Path, start: int, frames: int) -> list[Picture]:
    with open_clip(clip) as video:
        found = [frame.image for frame in islice(video, start, start + frames)]
    if not found:
        raise InputError(f"{clip.name} has no frame {start}; expected a --start inside the clip")
    return found


def read_labels(folder: Path, start: int, frames: int) -> dict[int, Label]:
    """Labels uint8 [H, W] by index among the frames that run.

    Raises InputError for a folder without any for these frames, or a file that is none.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder of labels at {folder}")
    found: dict[int, Label] = {}
    for path in sorted(folder.glob("*.png")):
        if path.stem.isdecimal() and start <= int(path.stem) < start + frames:
            found[int(path.stem) - start] = _label(path)
    if not found:
        raise InputError(
            f"{folder} has no label of the frames {start} to {start + frames - 1}; expected PNG "
            f"files named by the frame's number from 0, for example {start:06d}.png"
        )
    return found


def _label(path: Path) -> Label:
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


def stream_opener(
    model: QuantizedModel | QuantizedStm, card: ModelCard, box: str | None, masks: Path | None
) -> Opener:
    """Opens streams of a model with what its task needs.

    Raises:
        OptionError: a box or masks for another task, or none where they are needed.
        InputError: masks that cannot be read.
    """
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
        stream = chosen.stream(**given, factors=policy.factors)
        if card.task == "pose":
            return PosePipeline(stream, card.pose(), region)
        return SegmentationPipeline(stream, card.segmentation())

    return open_stream


def _judge(card: ModelCard, outputs: list[Any], labels: Mapping[int, Label]) -> Judge:
    if card.task == "pose":
        return PoseAgreement(outputs)
    if card.task == "vos":
        return MaskAgreement(outputs)
    if labels:
        return LabelledMiou(outputs, labels, len(card.classes), card.ignore_index)
    return PixelAgreement(outputs)
