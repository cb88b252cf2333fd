"""What every data set is made of: clips whose pictures and labels are read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resq_core.errors import InputError
from resq_core.tasks.keypoints import JointSet
from resq_core.tasks.labels import LabelSet
from resq_core.tasks.pictures import Picture, Size, read_picture

__all__ = [
    "DataSet",
    "Joints",
    "LabelFiles",
    "LabelledClip",
    "LabelledStills",
    "ObjectMasks",
    "PictureFiles",
    "Protocol",
    "check_folder",
    "is_picture",
    "numbered",
    "read_ids",
    "read_lines",
]

L = TypeVar("L")

_PICTURES = (".jpg", ".jpeg", ".png")
_MAX_LIST = 1_000_000  # bytes of a file of names


class Protocol(StrEnum):
    """Which frames run and which are scored; see `resq_core.evaluation.plans`."""

    EVERY_FRAME = "every frame"
    SPARSE = "sparse labels"
    WHOLE_CLIP = "whole clip"


class PictureFiles(Sequence[Picture]):
    """A clip's frames uint8 [H, W, 3] RGB, one file each, in order.

    Asking for one raises InputError, naming the file, where it cannot be read or is of another
    size than the clip's first frame.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        if not files:
            raise InputError("the clip has no frames")
        self.files = tuple(files)
        self._size: Size | None = None

    @property
    def size(self) -> Size:
        """(height, width) of the first frame, whose pixels are not read for it."""
        if self._size is None:
            try:
                with Image.open(self.files[0]) as image:
                    self._size = (image.height, image.width)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise InputError(f"{self.files[0]} cannot be read as a picture: {error}") from error
        return self._size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Picture:  # type: ignore[override]
        picture = read_picture(self.files[index], "RGB")
        if picture.shape[:2] != self.size:
            raise InputError(
                f"{self.files[index]} is {picture.shape[:2]} and its clip's first frame, "
                f"{self.files[0].name}, {self.size} (H, W)"
            )
        return picture


class LabelFiles(Mapping[int, L]):
    """Labels by index of their frame, one file each.

    read: makes one from its file; raises InputError, naming the file.
    """

    def __init__(self, files: Mapping[int, Path], read: Callable[[Path], L]) -> None:
        self._files, self._read = dict(files), read

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[int]:
        return iter(self._files)

    def __getitem__(self, index: int) -> L:
        return self._read(self._files[index])


class LabelledStills(Sequence[tuple[Picture, Picture]]):
    """Pictures of a split and their labels, read when asked for.

    An item is a picture uint8 [H, W, 3] RGB and its class ids uint8 [H, W]. Asking for one raises
    InputError for a file that cannot be read or a label of another kind or size, and IndexError
    outside the split.

    Args:
        pictures: their files, in order.
        labels: the file of each.
        read: makes class ids of a label's file and its picture's size; raises InputError, naming
            the file.

    Raises:
        InputError: a picture has no label.
    """

    def __init__(
        self,
        pictures: Sequence[Path],
        labels: Sequence[Path],
        read: Callable[[Path, Size], Picture],
    ) -> None:
        for picture, label in zip(pictures, labels, strict=True):
            if not label.is_file():
                raise InputError(f"{picture} has no label at {label}")
        self._pictures, self._labels, self._read = tuple(pictures), tuple(labels), read

    @property
    def names(self) -> tuple[str, ...]:
        """The pictures' names without their ending, in order."""
        return tuple(picture.stem for picture in self._pictures)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[Picture, Picture]:  # type: ignore[override]
        picture = read_picture(self._pictures[index], "RGB")
        return picture, self._read(self._labels[index], (picture.shape[0], picture.shape[1]))


@dataclass(frozen=True, eq=False)
class Joints:
    """One person's joints.

    Attributes:
        points: float64 [K, 2], column and row in pixels, from 0 at the first pixel's centre.
        labelled: bool [K], joints that are scored: those inside the picture.
    """

    points: NDArray[np.float64]
    labelled: NDArray[np.bool_]

    @property
    def scored(self) -> bool:
        """Whether enough joints are labelled for the person to have a size."""
        points = self.points[self.labelled]
        return len(points) > 1 and bool(np.ptp(points, axis=0).max() > 0)


@dataclass(frozen=True, eq=False)
class ObjectMasks:
    """A frame's objects.

    Attributes:
        ids: uint8 [H, W]; 0 is no object.
        objects: ids of all that the clip is about, whether this frame shows them or not.
    """

    ids: Picture
    objects: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LabelledClip:
    """Consecutive frames, some or all of them with labels.

    Attributes:
        name: its own within the data set.
        frames: uint8 [H, W, 3] RGB, all of one size; asking for one may raise InputError.
        labels: by index of the frame: class ids uint8 [H, W], `Joints` or `ObjectMasks`; asking
            for one may raise InputError.
        start: what a stream has to be told that begins at a frame: a `Box` or None for poses,
            masks bool [H, W] by object id, or nothing.
    """

    name: str
    frames: Sequence[Picture]
    labels: Mapping[int, Any]
    start: Callable[[int], Any] = lambda _index: None


@dataclass(frozen=True, eq=False)
class DataSet:
    """Clips of one task, and how they are scored.

    Attributes:
        name, split: for people.
        task: as of a model's card.
        protocol: which frames run and which are scored.
        clips: all of them, with names of their own.
        splits: names of clips by split; scores are means over splits, where there are several.
        classes: of segmentation; None where the model's own are meant.
        joints: of pose; None where the model's own are meant.
    """

    name: str
    split: str
    task: Literal["segmentation", "pose", "vos"]
    protocol: Protocol
    clips: Sequence[LabelledClip]
    splits: Mapping[str, Sequence[str]]
    classes: LabelSet | None = None
    joints: JointSet | None = None

    @classmethod
    def of(
        cls,
        name: str,
        split: str,
        task: Literal["segmentation", "pose", "vos"],
        protocol: Protocol,
        clips: Sequence[LabelledClip],
        classes: LabelSet | None = None,
    ) -> DataSet:
        """A data set of a single split."""
        splits = {split: [clip.name for clip in clips]}
        return cls(name, split, task, protocol, clips, splits, classes)


def check_folder(path: Path, what: str) -> Path:
    """The folder. Raises InputError, which says `what` was looked for there, without it."""
    if not path.is_dir():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        found = f"; {path.parent} has: {', '.join(beside[:10])}" if beside else ""
        raise InputError(f"there is no folder of {what} at {path}{found}")
    return path


def is_picture(path: Path) -> bool:
    """Whether a file's name says so."""
    return path.suffix.lower() in _PICTURES


def numbered(folder: Path, what: str) -> list[Path]:
    """The pictures of a folder, by name, which is their order in time.

    Raises InputError without the folder, or without a picture in it.
    """
    check_folder(folder, what)
    found = sorted(filter(is_picture, folder.iterdir()))
    if not found:
        raise InputError(f"{folder} holds no picture; expected {what}: {', '.join(_PICTURES)}")
    return found


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a small text file that hold something. Raises InputError, naming the file."""
    if not path.is_file():
        beside = sorted(p.stem for p in path.parent.glob("*.txt"))
        there = f"; there are: {', '.join(beside[:20])}" if beside else ""
        raise InputError(f"there is no list of {what} at {path}{there}")
    if path.stat().st_size > _MAX_LIST:
        raise InputError(f"{path} has over {_MAX_LIST} bytes; expected a list of {what}")
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of {what}: {error}") from error
    found = [line for line in lines if line]
    if not found:
        raise InputError(f"{path} is empty; expected a list of {what}")
    return found


def read_ids(path: Path, size: Size) -> Picture:
    """A picture file of ids, grey or with a palette, as uint8 [H, W] of `size`.

    Raises InputError, naming the file, for another kind or size.
    """
    ids = read_picture(path)
    if ids.dtype == np.bool_:
        ids = ids.astype(np.uint8)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise InputError(
            f"{path} holds {ids.dtype} {list(ids.shape)}; expected one byte per pixel, the id"
        )
    if ids.shape != size:
        raise InputError(f"{path} is {ids.shape} and its picture {size} (H, W)")
    return ids
