"""Labelled pictures on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resq_core.errors import InputError
from resq_core.tasks.pictures import Picture, read_picture

__all__ = ["CamVid"]

_LABELS = "_labels"


class CamVid:
    """CamVid with 11 classes: `root/SPLIT/*.jpg` and `root/SPLIT_labels/*.png` of the same names.

    A split is a set of pictures (`train`, `test`) or one clip in order (`clip_15hz`); names sort
    in time. Items are read when asked for.

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
                f"it has: {', '.join(splits) or 'none'}"
            )
        self._pictures = sorted((root / split).glob("*.jpg"))
        if not self._pictures:
            raise InputError(f"{root / split} holds no .jpg picture")
        labels = root / f"{split}{_LABELS}"
        self._labels = [labels / f"{picture.stem}.png" for picture in self._pictures]
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
        label = read_picture(self._labels[index])
        if label.ndim != 2 or label.dtype != np.uint8:
            raise InputError(
                f"{self._labels[index]} holds {label.dtype} {list(label.shape)}; expected one "
                "byte per pixel, the class id"
            )
        if label.shape != picture.shape[:2]:
            raise InputError(
                f"{self._labels[index]} is {label.shape} and its picture {picture.shape[:2]}"
            )
        return picture, label

    def __iter__(self) -> Iterator[tuple[Picture, Picture]]:
        return (self[index] for index in range(len(self)))


def _splits(root: Path) -> list[str]:
    found = (folder.name.removesuffix(_LABELS) for folder in root.glob(f"*{_LABELS}"))
    return sorted(name for name in found if (root / name).is_dir())
