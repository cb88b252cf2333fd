"""DAVIS at 480p: the first frame's masks are given, the others are to be found.

    ROOT/JPEGImages/480p/CLIP/00000.jpg
    ROOT/Annotations/480p/CLIP/00000.png
    ROOT/ImageSets/2016/SPLIT.txt       a clip's name per line
    ROOT/ImageSets/480p/SPLIT.txt       as DAVIS-2016 itself has it: a picture and its mask per line
    ROOT/ImageSets/2017/SPLIT.txt

DAVIS-2016 scores one object, all that is not 0; DAVIS-2017 every object by its id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from resq_core.errors import InputError
from resq_core.evaluation.datasets.clips import (
    DataSet,
    LabelledClip,
    ObjectMasks,
    PictureFiles,
    Protocol,
    check_folder,
    numbered,
    read_ids,
    read_lines,
)
from resq_core.tasks.pictures import Picture
from resq_core.tasks.vos import MAX_OBJECTS, Mask

__all__ = ["davis_clips"]

_VOID = 255


def davis_clips(root: Path, year: Literal[2016, 2017], split: str) -> DataSet:
    """The clips of a split.

    Raises InputError for a root, list, or clip that is not there, or a clip with another number
    of masks than of frames.
    """
    check_folder(root, "DAVIS")
    clips = [_clip(root, name, year) for name in _names(root, year, split)]
    return DataSet.of(f"davis{year}", split, "vos", Protocol.WHOLE_CLIP, clips)


def _names(root: Path, year: int, split: str) -> list[str]:
    """Clips in the order of the list."""
    own = root / "ImageSets" / "480p" / f"{split}.txt"
    if year == 2016 and own.is_file():
        found = [Path(line.split()[0]).parent.name for line in read_lines(own, "frames")]
    else:
        found = read_lines(root / "ImageSets" / str(year) / f"{split}.txt", "clips")
    for name in found:
        if name in ("", ".", "..") or Path(name).name != name:
            raise InputError(f"the list of split {split} in {root} names {name!r}; expected a clip")
    return list(dict.fromkeys(found))


def _clip(root: Path, name: str, year: int) -> LabelledClip:
    frames = numbered(root / "JPEGImages" / "480p" / name, "frames")
    masks = numbered(root / "Annotations" / "480p" / name, "masks")
    if [path.stem for path in frames] != [path.stem for path in masks]:
        odd = sorted({p.stem for p in frames} ^ {p.stem for p in masks})
        raise InputError(f"{masks[0].parent} and its frames differ at {', '.join(odd[:5])}")
    objects = _Masks(PictureFiles(frames), masks, year)
    return LabelledClip(name, objects.frames, objects, objects.given)


class _Masks(Mapping[int, ObjectMasks]):
    """The objects of each frame.

    Asking for a frame raises InputError, naming the file, also where it shows an object that the
    first frame does not: nobody could follow it.
    """

    def __init__(self, frames: PictureFiles, files: Sequence[Path], year: int) -> None:
        self.frames, self._files, self._year = frames, files, year
        self._objects: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __getitem__(self, index: int) -> ObjectMasks:
        if self._objects is None:
            self._objects = _objects(self._read(0))
            if not 1 <= len(self._objects) <= MAX_OBJECTS:
                raise InputError(
                    f"{self._files[0]} shows {len(self._objects)} objects; expected those to "
                    f"follow, 1 to {MAX_OBJECTS}"
                )
        ids = self._read(index)
        strange = sorted(set(_objects(ids)) - set(self._objects))
        if strange:
            raise InputError(
                f"{self._files[index]} shows the objects {strange}; the first frame has "
                f"{list(self._objects)}"
            )
        return ObjectMasks(ids, self._objects)

    def _read(self, index: int) -> Picture:
        ids = read_ids(self._files[index], self.frames.size)
        if self._year == 2016:
            return (ids > 0).astype(np.uint8)
        return np.where(ids == _VOID, 0, ids).astype(np.uint8)

    def given(self, index: int) -> dict[int, Mask]:
        """Masks bool [H, W] by object id, as a stream is given them that begins here."""
        label = self[index]
        return {i: label.ids == i for i in label.objects}


def _objects(ids: Picture) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unique(ids) if i)
