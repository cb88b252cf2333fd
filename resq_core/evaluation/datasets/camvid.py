"""CamVid with 11 classes: pictures of drives, each with its label.

ROOT/SPLIT/DRIVE_FRAME.png (or .jpg)
ROOT/SPLITannot/DRIVE_FRAME.png (or ROOT/SPLIT_labels)
"""

from __future__ import annotations

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
    numbered,
    read_ids,
)
from resq_core.tasks.labels import CAMVID11
from resq_core.tasks.pictures import Picture

__all__ = ["CamVid", "camvid_drives"]

_LABELS = ("_labels", "annot")


class CamVid(LabelledStills):
    """CamVid with 11 classes: the pictures of `root/SPLIT` and labels of the same names beside it.

    Labels are in `root/SPLIT_labels` or, as SegNet has them, `root/SPLITannot`. A split is a set
    of pictures (`train`, `test`) or one clip in order (`clip_15hz`); names sort in time. Ids are 0
    to 10, or 11 for unlabelled.

    Raises InputError for a root or split that is not there, or a picture without a label.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        root = Path(root)
        if not root.is_dir():
            raise InputError(f"there is no data set folder at {root}")
        splits = _splits(root)
        if split not in splits:
            raise InputError(
                f"{root} has no split {split!r} with labels beside it; "
                f"it has: {', '.join(sorted(splits)) or 'none'}"
            )
        pictures = numbered(root / split, "pictures")
        labels = [splits[split] / f"{picture.stem}.png" for picture in pictures]
        super().__init__(pictures, labels, read_ids)

    def drives(self) -> list[LabelledClip]:
        """A clip for each drive: the pictures whose names agree up to the last underscore."""
        files: dict[str, dict[Path, Path]] = {}
        for picture, label in zip(self._pictures, self._labels, strict=True):
            files.setdefault(picture.stem.rpartition("_")[0], {})[picture] = label
        return [_drive(name or self._pictures[0].parent.name, own) for name, own in files.items()]


def camvid_drives(root: Path, split: str) -> DataSet:
    """The drives of a split, every frame of which has a label. Raises as `CamVid` does."""
    clips = CamVid(root, split).drives()
    return DataSet.of("camvid", split, "segmentation", Protocol.EVERY_FRAME, clips, CAMVID11)


def _drive(name: str, files: dict[Path, Path]) -> LabelledClip:
    frames = PictureFiles(list(files))
    return LabelledClip(
        name, frames, LabelFiles(dict(enumerate(files.values())), partial(_read, frames))
    )


def _read(frames: PictureFiles, path: Path) -> Picture:
    ids = read_ids(path, frames.size)
    if ids.max() > CAMVID11.ignore_index:
        raise InputError(
            f"{path} holds the class {np.max(ids)}; expected 0 to 10, or 11 for unlabelled"
        )
    return ids


def _splits(root: Path) -> dict[str, Path]:
    """Folders of labels by the split that they belong to."""
    found = {
        folder.name.removesuffix(ending): folder
        for ending in _LABELS
        for folder in root.glob(f"*{ending}")
    }
    return {name: labels for name, labels in found.items() if (root / name).is_dir()}
