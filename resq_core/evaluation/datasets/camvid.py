"""CamVid with 11 classes: pictures of drives, each with its label.

ROOT/SPLIT/DRIVE_FRAME.png (or .jpg)
ROOT/SPLITannot/DRIVE_FRAME.png (or ROOT/SPLIT_labels)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from resq_core.errors import InputError
from resq_core.evaluation.datasets.clips import (
    DataSet,
    LabelFiles,
    LabelledClip,
    PictureFiles,
    Protocol,
    numbered,
    read_ids,
)
from resq_core.tasks.labels import CAMVID11
from resq_core.tasks.pictures import Picture, read_picture

__all__ = ["CamVid", "camvid_drives"]

_LABELS = ("_labels", "annot")


class CamVid:
    """CamVid with 11 classes: the pictures of `root/SPLIT` and labels of the same names beside it.

    Labels are in `root/SPLIT_labels` or, as SegNet has them, `root/SPLITannot`. A split is a set
    of pictures (`train`, `test`) or one clip in order (`clip_15hz`); names sort in time. Items are
    read when asked for.

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
        self._pictures = numbered(root / split, "pictures")
        self._labels = [splits[split] / f"{picture.stem}.png" for picture in self._pictures]
        for picture, label in zip(self._pictures, self._labels, strict=True):
            if not label.is_file():
                raise InputError(f"{picture} has no label at {label}")

    @property
    def names(self) -> tuple[str, ...]:
        """The pictures' names without their ending, in order."""
        return tuple(picture.stem for picture in self._pictures)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[Picture, Picture]:
        """Picture uint8 [H, W, 3] RGB and label uint8 [H, W]: 0 to 10, or 11 for unlabelled.

        Raises InputError for a file that cannot be read or whose label is of another kind or
        size, and IndexError outside the split.
        """
        picture = read_picture(self._pictures[index], "RGB")
        return picture, read_ids(self._labels[index], (picture.shape[0], picture.shape[1]))

    def __iter__(self) -> Iterator[tuple[Picture, Picture]]:
        return (self[index] for index in range(len(self)))

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
