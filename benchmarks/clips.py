"""The clips that runtimes are compared on: files, drawn streets, and two controls.

- PATH: a video file, or a folder of pictures whose names sort in time; labels are taken from
  FOLDER_labels where that is there;
- street-static, street-moving: a drawn street, cars and bicycles passing;
- pedestrians: the drawn street from a static camera while people only are on the move;
- still: one frame of it again and again; noise: every frame independent of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resq_core.errors import InputError
from resq_core.evaluation import CamVid
from resq_core.tasks.boxes import Box
from resq_core.world import Street
from service.decoder import open_clip

__all__ = ["DRAWN", "Clip", "load", "moving_box"]

Picture = NDArray[np.uint8]
Size = tuple[int, int]

DRAWN = ("still", "noise", "street-static", "street-moving", "pedestrians")

_CARS_PASS = 48  # frame of the static street from which cars and bicycles pass the crossing
_CHANGED = 20  # grey levels: beyond the noise of a sensor or a codec
_PEOPLE_ONLY = 120  # 60 frames with 4 to 6 people in view and vehicles on 1 % of the picture


@dataclass(frozen=True)
class Clip:
    """Pictures uint8 [H, W, 3] RGB in order, and class ids uint8 [H, W] of each where known."""

    name: str
    pictures: Sequence[Picture]
    labels: Sequence[Picture] | None = None


def load(name: str, size: Size, frames: int) -> Clip:
    """The first frames of a clip, drawn at (height, width) if it is one that is drawn.

    Raises InputError for a name that is neither a path nor a drawn clip, or a clip too short.
    """
    path = Path(name)
    if name in DRAWN:
        return _drawn(name, size, frames)
    if path.is_dir():
        clip = _folder(path, frames)
    elif path.is_file():
        with open_clip(path) as video:
            clip = Clip(path.stem, [frame.image for frame in islice(video, frames)])
    else:
        raise InputError(f"there is no clip {name}; expected a path or one of {', '.join(DRAWN)}")
    if len(clip.pictures) < frames:
        raise InputError(f"{name} has {len(clip.pictures)} frames; expected at least {frames}")
    return clip


def moving_box(pictures: Sequence[Picture]) -> Box:
    """Where a clip changes: the box that holds nine tenths of it along each axis.

    The whole picture where nothing changes.
    """
    first = pictures[0].astype(np.float32).mean(2)
    change = np.zeros_like(first)
    for picture in pictures[1:]:
        change += np.abs(picture.astype(np.float32).mean(2) - first) > _CHANGED
    if not change.any():
        return Box.whole(first.shape)
    top, bottom = _span(change.sum(1))
    left, right = _span(change.sum(0))
    return Box(float(left), float(top), float(right - left + 1), float(bottom - top + 1))


def _span(weights: NDArray[np.float32]) -> tuple[int, int]:
    shares = np.cumsum(weights) / weights.sum()
    low, high = np.searchsorted(shares, (0.05, 0.95))
    return int(low), int(min(high, len(shares) - 1))


def _drawn(name: str, size: Size, frames: int) -> Clip:
    if name == "noise":
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(frames)]
        return Clip(name, noise)
    street = Street(size=size, camera="moving" if name == "street-moving" else "static")
    start = {"pedestrians": _PEOPLE_ONLY, "street-moving": 0}.get(name, _CARS_PASS)
    drawn = [street.frame(start + t) for t in range(1 if name == "still" else frames)]
    drawn *= frames // len(drawn)
    return Clip(name, [f.image for f in drawn], [f.classes for f in drawn])


def _folder(path: Path, frames: int) -> Clip:
    if path.with_name(f"{path.name}_labels").is_dir():
        items = list(islice(CamVid(path.parent, path.name), frames))
        return Clip(path.name, [picture for picture, _ in items], [label for _, label in items])
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in (".png", ".jpg"))[:frames]
    pictures = []
    for file in found:
        with Image.open(file) as image:
            pictures.append(np.array(image.convert("RGB")))
    return Clip(path.name, pictures)
