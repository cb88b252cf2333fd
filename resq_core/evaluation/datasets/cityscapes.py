"""Cityscapes: snippets of 30 frames of which the 20th has a fine label, and those frames alone.

    ROOT/leftImg8bit_sequence/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png
    ROOT/leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png
    ROOT/gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png

SEQUENCE and FRAME have six digits. Some cities are one sequence whose snippets follow each other,
so that a snippet is found from its label's FRAME: the 19 frames before it.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from resq_core.errors import InputError
from resq_core.evaluation.datasets.clips import (
    DataSet,
    LabelFiles,
    LabelledClip,
    LabelledStills,
    PictureFiles,
    Protocol,
    check_folder,
    read_ids,
)
from resq_core.tasks.labels import CITYSCAPES19
from resq_core.tasks.pictures import Picture, Size

__all__ = ["CityscapesStills", "cityscapes_snippets", "train_ids"]

_LABEL, _PICTURE = "_gtFine_labelIds.png", "_leftImg8bit.png"
_BEFORE = 19  # frames of a snippet before the labelled one
_NAME = re.compile(r"(?P<sequence>.+_\d{6})_(?P<frame>\d{6})_gtFine_labelIds\.png")
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_LAST_ID = 33
_NO_ID = 255  # the licence plates' id −1, as a byte


def _table() -> Picture:
    table = np.full(256, CITYSCAPES19.ignore_index, np.uint8)
    table[list(_LABEL_IDS)] = range(len(_LABEL_IDS))
    return table


_TABLE = _table()


def train_ids(label_ids: Picture) -> Picture:
    """Label ids uint8 0 to 33 (or 255 for −1) to the 19 train ids, 255 where none is scored.

    Raises InputError for any other id.
    """
    strange = label_ids[(label_ids > _LAST_ID) & (label_ids != _NO_ID)]
    if strange.size:
        raise InputError(f"the label id {strange[0]}; expected 0 to {_LAST_ID}")
    found: Picture = _TABLE[label_ids]
    return found


class CityscapesStills(LabelledStills):
    """The pictures of `root/leftImg8bit/SPLIT` and their fine labels, train ids 0 to 18, or 255.

    Raises InputError for a folder that is not there, none with a picture, or one without a label.
    """

    def __init__(self, root: Path, split: str) -> None:
        folder = check_folder(root / "leftImg8bit" / split, "pictures")
        labels = check_folder(root / "gtFine" / split, "labels")
        pictures = sorted(folder.glob(f"*/*{_PICTURE}"))
        if not pictures:
            raise InputError(f"{folder} holds no picture; expected CITY/*{_PICTURE}")
        names = [p.parent.name + "/" + p.name.removesuffix(_PICTURE) for p in pictures]
        super().__init__(pictures, [labels / f"{name}{_LABEL}" for name in names], _ids)


def cityscapes_snippets(root: Path, split: str) -> DataSet:
    """The snippets of a split that have a label; frames after the labelled one are not used.

    Raises InputError for a folder that is not there, or a split without labels.
    """
    check_folder(root, "Cityscapes")
    labels = check_folder(root / "gtFine" / split, "labels")
    pictures = check_folder(root / "leftImg8bit_sequence" / split, "sequences")
    files = sorted(labels.glob(f"*/*{_LABEL}"))
    if not files:
        raise InputError(f"{labels} holds no label; expected CITY/*{_LABEL}")
    clips = [_snippet(file, pictures) for file in files]
    protocol = Protocol.SPARSE
    return DataSet.of("cityscapes", split, "segmentation", protocol, clips, CITYSCAPES19)


def _snippet(label: Path, pictures: Path) -> LabelledClip:
    name = _NAME.fullmatch(label.name)
    if name is None:
        raise InputError(f"{label} is no label's name; expected CITY_000000_000019_gtFine_labelIds")
    last, folder = int(name["frame"]), pictures / label.parent.name

    def file(number: int) -> Path:
        return folder / f"{name['sequence']}_{number:06}{_PICTURE}"

    if not file(last).is_file():
        raise InputError(f"{label} has no frame at {file(last)}")
    first = last
    while first > max(last - _BEFORE, 0) and file(first - 1).is_file():
        first -= 1
    frames = PictureFiles([file(number) for number in range(first, last + 1)])
    read = partial(_read, frames)
    return LabelledClip(
        label.name.removesuffix(_LABEL),
        frames,
        LabelFiles({last - first: label}, read),
    )


def _read(frames: PictureFiles, path: Path) -> Picture:
    return _ids(path, frames.size)


def _ids(path: Path, size: Size) -> Picture:
    """Train ids of a label file. Raises InputError, naming the file."""
    ids = read_ids(path, size)
    try:
        return train_ids(ids)
    except InputError as error:
        raise InputError(f"{path} holds {error}") from error
