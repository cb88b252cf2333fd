"""What training commands learn from: videos, pictures, and labels beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor

from resq_core.errors import InputError
from resq_core.evaluation import CamVid, CityscapesStills
from resq_core.tasks.pictures import Picture, read_picture
from resq_core.training import VOID, ClipSource, StillSource, Stretch
from service.commands.shared import picture_files
from service.decoder import open_clip

__all__ = ["Look", "Mixture", "labelled_stills", "pictures_of", "unlabelled"]

_FRAMES = 300  # of each video whose frames are pictures
_KEPT = 4 << 30  # bytes of labelled pictures that stay in memory

Look = Callable[[Picture], Tensor]
"""A picture uint8 [H, W, 3] to a network's input [1, 3, h, w]."""


def pictures_of(material: list[Path], bar: Progress) -> list[Picture]:
    """All pictures of folders, and what videos begin with.

    Raises InputError for a folder without pictures, or a file that cannot be read.
    """
    reading = bar.add_task("reading", total=len(material))
    found: list[Picture] = []
    for path in material:
        if path.is_dir():
            found += [read_picture(file, "RGB") for file in picture_files(path)]
        else:
            with open_clip(path) as video:
                found += [frame.image for frame in islice(video, _FRAMES)]
        bar.advance(reading)
    return found


def unlabelled(
    material: list[Path],
    look: Look,
    frames: int,
    bar: Progress,
    scales: tuple[float, float],
) -> Mixture:
    """Sequences of videos, and of folders of still pictures.

    Args:
        material: videos and folders.
        look: see there.
        frames: at most, of each video.
        bar: is told of every file.
        scales: of still pictures, see `StillSource`.

    Raises:
        InputError: a folder without pictures, a file that cannot be read, or no frame.
        OptionError: scales are out of range.
    """
    reading = bar.add_task("reading", total=len(material))
    clips: list[Tensor] = []
    stills: list[Tensor] = []
    for path in material:
        if path.is_dir():
            stills += [look(read_picture(file, "RGB"))[0] for file in picture_files(path)]
        else:
            with open_clip(path) as video:
                found = [look(frame.image) for frame in islice(video, frames)]
            if found:
                clips.append(torch.cat(found))
        bar.advance(reading)
    sources: list[ClipSource | StillSource] = []
    if clips:
        sources.append(ClipSource(clips))
    if stills:
        sources.append(StillSource(stills, scales=scales))
    if not sources:
        raise InputError(f"{', '.join(map(str, material))}: no frame in it; expected videos")
    return Mixture(sources)


def labelled_stills(
    folders: list[Path],
    look: Look,
    classes: int,
    ignore: int,
    bar: Progress,
    scales: tuple[float, float],
    jitter: float = 0.0,
) -> StillSource:
    """Sequences over labelled pictures; each folder is drawn from as often as it has pictures.

    Everything is read once, so that what is wrong shows now; what exceeds 4 GiB is read again
    whenever it is drawn.

    Args:
        folders: with the labels of `DIR/*.jpg` in `DIR_labels/*.png`, as CamVid has them, a split
            of Cityscapes, `leftImg8bit/train`, or what `resq world --labels` wrote.
        look: see there.
        classes, ignore: label ids are below `classes`, or `ignore`.
        bar: is told of every picture.
        scales, jitter: see `StillSource`.

    Raises:
        InputError: a folder is of no such kind, or holds a file that cannot be used.
    """
    pairs = [pair for folder in folders for pair in _pairs(folder)]
    reading = bar.add_task("reading", total=len(pairs))
    stills = _Stills(lambda pair: _seen(*pair, look, classes, ignore))
    for pair in pairs:
        stills.add(pair)
        bar.advance(reading)
    pictures, labels = _Side(stills, 0), _Side(stills, 1)
    return StillSource(pictures, labels, scales=scales, jitter=jitter)


_Pair = tuple[Path, Callable[[], tuple[Picture, Picture]]]
"""A name for errors, and what reads a picture and its labels."""


def _pairs(folder: Path) -> Iterator[_Pair]:
    """Names, pictures and labels of a folder.

    Raises InputError for what cannot be read, and for a clip that is not of its labels' length.
    """
    classes = folder / "classes"
    if not classes.is_dir():
        data = (
            CityscapesStills(folder.parent.parent, folder.name)
            if folder.parent.name == "leftImg8bit"
            else CamVid(folder.parent, folder.name)
        )
        for index, name in enumerate(data.names):
            yield folder / name, partial(data.__getitem__, index)
        return
    files = sorted(classes.glob("*.png"))
    with open_clip(folder / "clip.mp4") as video:
        for file, frame in zip_longest(files, video):
            if file is None or frame is None:
                raise InputError(
                    f"{folder}: clip.mp4 has {'more' if file is None else 'fewer'} frames than the "
                    f"{len(files)} label pictures in {classes.name}; expected one for each"
                )
            yield file, partial(_drawn, frame.image, file)


def _drawn(picture: Picture, labels: Path) -> tuple[Picture, Picture]:
    return picture, read_picture(labels)


def _seen(
    name: Path,
    read: Callable[[], tuple[Picture, Picture]],
    look: Look,
    classes: int,
    ignore: int,
) -> tuple[Tensor, Tensor]:
    """A picture and its labels as the network sees them. Raises InputError for what it cannot."""
    picture, label = read()
    shown = look(picture)[0]
    return shown, _checked(name, label, classes, ignore, shown.shape[1:])


class _Stills:
    """Pictures and labels: the first of them are kept, the others made again when asked for."""

    def __init__(self, make: Callable[[_Pair], tuple[Tensor, Tensor]]) -> None:
        self._make, self._left = make, _KEPT
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._others: list[_Pair] = []
        self._last: tuple[int, tuple[Tensor, Tensor]] | None = None

    def add(self, pair: _Pair) -> None:
        """Read one. Raises InputError where it cannot be used."""
        made = self._make(pair)
        self._left -= sum(tensor.nbytes for tensor in made)
        if self._left >= 0:
            self._kept.append(made)
        else:
            self._others.append(pair)

    def __len__(self) -> int:
        return len(self._kept) + len(self._others)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index < len(self._kept):
            return self._kept[index]
        if self._last is None or self._last[0] != index:  # labels follow their picture
            self._last = index, self._make(self._others[index - len(self._kept)])
        return self._last[1]


class _Side(Sequence[Tensor]):
    """The pictures, 0, or the labels, 1."""

    def __init__(self, stills: _Stills, side: int) -> None:
        self._stills, self._side = stills, side

    def __len__(self) -> int:
        return len(self._stills)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self._stills[index][self._side]


def _checked(name: Path, label: Picture, classes: int, ignore: int, size: Sequence[int]) -> Tensor:
    """Label ids at the network's size, `VOID` for what does not count."""
    beyond = sorted(set(np.unique(label).tolist()) - set(range(classes)) - {ignore})
    if beyond:
        raise InputError(
            f"the labels of {name} hold {beyond[:8]}; expected 0 to {classes - 1}, or {ignore}"
        )
    height, width = size
    small = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
    ids = np.asarray(small)
    return torch.from_numpy(np.where(ids == ignore, VOID, ids).astype(np.uint8))


@dataclass(frozen=True)
class Mixture:
    """Draws from several sources in turn by chance."""

    sources: Sequence[ClipSource | StillSource]

    def __len__(self) -> int:
        """How many frames and pictures there are."""
        return sum(map(len, self.sources))

    def draw(self, length: int, generator: torch.Generator) -> Stretch:
        place = int(torch.randint(len(self.sources), (), generator=generator))
        return self.sources[place].draw(length, generator)
