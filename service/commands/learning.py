"""What both training commands do: read material, and run a training that may be interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress, TaskID
from safetensors.torch import save_file
from torch import Tensor

from resq_core.errors import InputError, OptionError
from resq_core.evaluation import CamVid, CityscapesStills
from resq_core.tasks.pictures import Picture, read_picture
from resq_core.training import (
    VOID,
    Batch,
    ClipSource,
    FloatNetwork,
    Loss,
    Schedule,
    StillSource,
    Stretch,
    Trainer,
    lovasz_softmax,
    ohem_cross_entropy,
)
from service.commands.shared import picture_files
from service.decoder import open_clip

__all__ = [
    "Look",
    "Mixture",
    "check_options",
    "every_fourth",
    "labelled_stills",
    "pictures_of",
    "pixels_and_regions",
    "run_training",
    "train_in_float",
    "unlabelled",
]

_FRAMES = 300  # of each video whose frames are pictures
_SAVE_EVERY = 50  # steps
_MEAN_OVER = 20  # steps, of the losses that are told
_KEPT = 4 << 30  # bytes of labelled pictures that stay in memory
_RISE = 200  # steps until the rate is highest

Look = Callable[[Picture], Tensor]
"""A picture uint8 [H, W, 3] to a network's input [1, 3, h, w]."""


def run_training(
    trainer: Trainer[Any], last: Path, log: Path, bar: Progress, line: TaskID
) -> list[float]:
    """Train to the end; means of the losses over some steps each, those of this call.

    Args:
        trainer: goes on from `last` where that exists.
        last: its state, written every 50 steps.
        log: the means are added to it, a line of JSON each.
        bar, line: are told of every step.

    Raises:
        SavedModelError: `last` is not of this training.
        InputError, OptionError: as `Trainer.advance` does.
    """
    last.parent.mkdir(parents=True, exist_ok=True)
    if last.exists():
        trainer.resume(last)
        bar.update(line, completed=trainer.step)
    recent: list[float] = []
    losses: list[float] = []
    with log.open("a", encoding="utf-8") as file:
        while not trainer.done:
            recent.append(trainer.advance())
            bar.advance(line)
            if len(recent) == _MEAN_OVER or trainer.done:
                losses.append(float(np.mean(recent)))
                recent.clear()
                file.write(json.dumps({"step": trainer.step, "loss": losses[-1]}) + "\n")
                file.flush()
                bar.update(line, description=f"training, loss {losses[-1]:.4g}")
            if trainer.step % _SAVE_EVERY == 0 or trainer.done:
                trainer.save(last)
    return losses


def train_in_float(
    network: FloatNetwork,
    loss: Loss,
    batches: Callable[[torch.Generator], Batch],
    out: Path,
    schedule: tuple[int, float, int],
    bar: Progress,
) -> tuple[Any, list[float]]:
    """Train a network, and write the average of its weights.

    Args:
        network: what learns, on the device where it does.
        loss, batches: see `Trainer`.
        out: the file, X.safetensors; the training's state is beside it until it ends.
        schedule: steps, the highest rate, and the seed.
        bar: is told of every step.

    Returns:
        The averaged network, in evaluation mode on the CPU, and what `run_training` returns.
    """
    steps, rate, seed = schedule
    rise = min(_RISE, steps // 10)
    plan = Schedule(
        steps,
        rate,
        head_rate=network.head_pace * rate,
        warm_up=rise,
        weight_decay=0.01,
        average=0.998,
        most=5.0,
    )
    trainer = Trainer(network, loss, batches, plan, seed)
    last, log = out.with_suffix(".last.pt"), out.with_suffix(".ndjson")
    losses = run_training(trainer, last, log, bar, bar.add_task("training", total=steps))
    best = trainer.result.network.eval().cpu()
    save_file({name: value.contiguous() for name, value in best.state_dict().items()}, out)
    last.unlink()
    return best, losses


def check_options(out: Path, batch: int) -> None:
    """Raise OptionError for a file of another kind, or no picture at a time."""
    if out.suffix != ".safetensors":
        raise OptionError(f"out is {out}; expected a name that ends in .safetensors")
    if batch < 1:
        raise OptionError(f"batch is {batch}; expected at least 1")


def every_fourth(labels: Tensor) -> Tensor:
    """One pixel of two by two of labels [B, H, W], another one in each picture.

    With all of them, the losses take three times as long as a small network.
    """
    return torch.stack([one[i // 2 % 2 :: 2, i % 2 :: 2] for i, one in enumerate(labels)])


def pixels_and_regions(logits: Tensor, labels: Tensor) -> Tensor:
    """Hard pixels, and half as much the regions of each class; see the two losses."""
    return ohem_cross_entropy(logits, labels, VOID) + lovasz_softmax(logits, labels, VOID) / 2


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
