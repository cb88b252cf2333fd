"""Where training sequences come from: video, or still pictures under a camera that moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from resq_core.errors import InputError, OptionError

__all__ = [
    "VOID",
    "Batch",
    "ClipSource",
    "Source",
    "StillSource",
    "Stretch",
    "batch_of",
    "recoloured",
]

VOID = 255
"""Label of pixels that do not count, whatever a data set calls them."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames in a row.

    Attributes:
        frames: float32 [T, C, H, W].
        labels: int64 [T, H, W], class ids or `VOID`; None where there are none.
    """

    frames: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences side by side.

    Attributes:
        frames: T tensors float32 [B, C, h, w].
        labels: T tensors int64 [B, h, w], class ids or `VOID`, or float32 [B, K, h, w], heatmaps;
            None where there are none.
    """

    frames: list[Tensor]
    labels: list[Tensor] | None = None

    def to(self, device: torch.device) -> Batch:
        """The same sequences on a device."""
        labels = None if self.labels is None else [y.to(device) for y in self.labels]
        return Batch([x.to(device) for x in self.frames], labels)


class Source(Protocol):
    """Draws sequences."""

    def draw(self, length: int, generator: torch.Generator) -> Stretch:
        """`length` frames in a row."""
        ...


@dataclass(frozen=True)
class ClipSource:
    """Stretches of clips, each frame of which may be the first with equal chance.

    Attributes:
        clips: preprocessed frames, float32 [N, C, H, W] each.

    Raises:
        InputError: there is no clip.
    """

    clips: Sequence[Tensor]

    def __post_init__(self) -> None:
        if not self.clips:
            raise InputError("0 clips given; expected one at least to train on")

    def __len__(self) -> int:
        """How many frames there are."""
        return sum(len(clip) for clip in self.clips)

    def draw(self, length: int, generator: torch.Generator) -> Stretch:
        """A stretch without labels. Raises InputError where every clip is shorter."""
        starts = [max(len(clip) - length + 1, 0) for clip in self.clips]
        if not sum(starts):
            longest = max(len(clip) for clip in self.clips)
            raise InputError(f"the longest clip has {longest} frames; expected at least {length}")
        place = int(torch.randint(sum(starts), (), generator=generator))
        for clip, count in zip(self.clips, starts, strict=True):
            if place < count:
                return Stretch(clip[place : place + length])
            place -= count
        raise AssertionError("the places are those of the clips")


@dataclass(frozen=True)
class StillSource:
    """Still pictures that a camera pans and zooms over, evenly within a sequence.

    Attributes:
        pictures: preprocessed, float32 [C, H, W] each.
        labels: of each picture uint8 [H, W], class ids or `VOID`; none at all for no labels.
        reach: most that it pans from frame to frame, as a share of the picture's side; half of
            the sequences stand still.
        scales: least and most that a sequence is enlarged by. What shows beyond the picture's
            edge is its mirror image, `VOID` in the labels.
        jitter: contrast, brightness (in standard deviations), saturation and tint of a sequence
            differ from the picture's by up to this, 0 to below 1.

    Raises:
        InputError: there is no picture, or not one label map for each.
        OptionError: scales or jitter are out of range.
    """

    pictures: Sequence[Tensor]
    labels: Sequence[Tensor] = ()
    reach: float = 0.01
    scales: tuple[float, float] = (1 / 0.9, 1 / 0.9)
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not self.pictures:
            raise InputError("0 pictures given; expected one at least to train on")
        if self.labels and len(self.pictures) != len(self.labels):
            raise InputError(
                f"{len(self.labels)} label maps of {len(self.pictures)} pictures; expected as many"
            )
        if not 0 < self.scales[0] <= self.scales[1] or not 0 <= self.jitter < 1:
            raise OptionError(
                f"scales are {self.scales} and jitter is {self.jitter}; expected two above 0, the "
                "smaller first, and 0 to below 1"
            )

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.pictures)

    def draw(self, length: int, generator: torch.Generator) -> Stretch:
        """A sequence over one picture. Raises InputError where its labels are of another size."""
        place = int(torch.randint(len(self.pictures), (), generator=generator))
        picture = self.pictures[place]
        labels = self.labels[place] if self.labels else None
        if labels is not None and labels.shape != picture.shape[1:]:
            raise InputError(
                f"labels {place} are {list(labels.shape)} and their picture "
                f"{list(picture.shape[1:])} (H, W)"
            )
        views = self._views(length, generator)
        grid = F.affine_grid(views, [length, *picture.shape], align_corners=False)
        frames = F.grid_sample(
            picture.expand(length, -1, -1, -1),
            grid,
            padding_mode="reflection",
            align_corners=False,
        )
        if self.jitter:
            frames = recoloured(frames, self.jitter, generator)
        if labels is None:
            return Stretch(frames)
        shifted = labels.float()[None, None] - VOID  # so that void is the padding's 0
        seen = F.grid_sample(
            shifted.expand(length, -1, -1, -1), grid, mode="nearest", align_corners=False
        )
        return Stretch(frames, seen[:, 0].round().long() + VOID)

    def _views(self, length: int, generator: torch.Generator) -> Tensor:
        """Where each frame looks: [T, 2, 3], as `affine_grid` wants it."""
        moves = bool(torch.rand((), generator=generator) < 0.5)
        pan_x, pan_y, zoom = ((2 * torch.rand(3, generator=generator) - 1) * self.reach).tolist()
        zoom = math.log1p(abs(zoom)) * moves
        low, high = map(math.log, self.scales)
        share = low + (high - low) * torch.rand((), generator=generator).item()
        start = math.exp(-share)
        place = (2 * torch.rand(2, generator=generator) - 1) * max(1 - start, 0)
        at_x, at_y = place.tolist() if low < high else (0.0, 0.0)
        rows = []
        for t in range(length):
            scale = start * math.exp(-zoom * t)
            shift_x, shift_y = (2 * pan * (t - length / 2) * moves for pan in (pan_x, pan_y))
            rows.append([[scale, 0.0, at_x + shift_x], [0.0, scale, at_y + shift_y]])
        return torch.tensor(rows)


def recoloured(frames: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Frames [T, C, H, W] under another light and lens, alike in all; see `StillSource.jitter`."""
    contrast, brightness, saturation, *tint = (
        (2 * torch.rand(3 + frames.shape[1], generator=generator) - 1) * jitter
    ).tolist()
    mean = frames.mean((0, 2, 3), keepdim=True)
    frames = mean + (frames - mean) * (1 + contrast) + brightness
    grey = frames.mean(1, keepdim=True)
    frames = grey + (frames - grey) * (1 + saturation)
    return frames + torch.tensor(tint).view(1, -1, 1, 1) / 2


def batch_of(
    source: Source, size: int, length: int, crop: tuple[int, int], generator: torch.Generator
) -> Batch:
    """Sequences side by side, each cropped and flipped at random, alike in all its frames.

    Args:
        source: of the sequences.
        size: B, how many.
        length: T.
        crop: (height, width); a smaller side of the frames is an error.
        generator: of every choice.

    Returns:
        With labels only where every sequence has them.

    Raises:
        InputError: frames are smaller than the crop, or clips shorter than T.
    """
    found = []
    for _ in range(size):
        stretch = source.draw(length, generator)
        height, width = stretch.frames.shape[2:]
        spare = height - crop[0], width - crop[1]
        if min(spare) < 0:
            raise InputError(
                f"frames are {width}x{height}; expected at least the crop, {crop[1]}x{crop[0]}"
            )
        y, x = (int(torch.randint(most + 1, (), generator=generator)) for most in spare)
        flips = bool(torch.rand((), generator=generator) < 0.5)

        def seen(whole: Tensor, y: int = y, x: int = x, flips: bool = flips) -> Tensor:
            part = whole[..., y : y + crop[0], x : x + crop[1]]
            return part.flip(-1) if flips else part

        labels = stretch.labels
        found.append((seen(stretch.frames), None if labels is None else seen(labels)))
    frames = list(torch.stack([pair[0] for pair in found], 1))
    labels_of = [pair[1] for pair in found if pair[1] is not None]
    return Batch(frames, list(torch.stack(labels_of, 1)) if len(labels_of) == size else None)
