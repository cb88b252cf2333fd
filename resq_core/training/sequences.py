"""Where training sequences come from: video, or still pictures under a camera that moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from resq_core.errors import InputError

__all__ = ["ClipSource", "Source", "StillSource", "batch_of"]


class Source(Protocol):
    """Draws sequences."""

    def draw(self, length: int, generator: torch.Generator) -> Tensor:
        """`length` frames in a row, float32 [T, C, H, W]."""
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

    def draw(self, length: int, generator: torch.Generator) -> Tensor:
        """A stretch. Raises InputError where every clip is shorter."""
        starts = [max(len(clip) - length + 1, 0) for clip in self.clips]
        if not sum(starts):
            longest = max(len(clip) for clip in self.clips)
            raise InputError(f"the longest clip has {longest} frames; expected at least {length}")
        place = int(torch.randint(sum(starts), (), generator=generator))
        for clip, count in zip(self.clips, starts, strict=True):
            if place < count:
                return clip[place : place + length]
            place -= count
        raise AssertionError("the places are those of the clips")


@dataclass(frozen=True)
class StillSource:
    """Still pictures that a camera pans and zooms over, evenly within a sequence.

    Attributes:
        pictures: preprocessed, float32 [C, H, W] each.
        reach: most that it pans from frame to frame, as a share of the picture's side; half of
            the sequences stand still.

    Raises:
        InputError: there is no picture.
    """

    pictures: Sequence[Tensor]
    reach: float = 0.01

    def __post_init__(self) -> None:
        if not self.pictures:
            raise InputError("0 pictures given; expected one at least to train on")

    def draw(self, length: int, generator: torch.Generator) -> Tensor:
        """A sequence over one picture."""
        picture = self.pictures[int(torch.randint(len(self.pictures), (), generator=generator))]
        moves = bool(torch.rand((), generator=generator) < 0.5)
        pan_x, pan_y, zoom = ((2 * torch.rand(3, generator=generator) - 1) * self.reach).tolist()
        zoom = math.log1p(abs(zoom)) * moves
        frames = []
        for t in range(length):
            scale = 0.9 * math.exp(-zoom * t)
            shift_x, shift_y = (2 * pan * (t - length / 2) * moves for pan in (pan_x, pan_y))
            theta = torch.tensor([[scale, 0.0, shift_x], [0.0, scale, shift_y]])
            grid = F.affine_grid(theta[None], [1, *picture.shape], align_corners=False)
            frames.append(
                F.grid_sample(picture[None], grid, padding_mode="reflection", align_corners=False)
            )
        return torch.cat(frames)


def batch_of(
    source: Source, size: int, length: int, crop: tuple[int, int], generator: torch.Generator
) -> list[Tensor]:
    """Sequences side by side, each cropped and flipped at random, alike in all its frames.

    Args:
        source: of the sequences.
        size: B, how many.
        length: T.
        crop: (height, width); a smaller side of the frames is an error.
        generator: of every choice.

    Returns:
        T tensors float32 [B, C, height, width].

    Raises:
        InputError: frames are smaller than the crop, or clips shorter than T.
    """
    found = []
    for _ in range(size):
        frames = source.draw(length, generator)
        spare = frames.shape[2] - crop[0], frames.shape[3] - crop[1]
        if min(spare) < 0:
            raise InputError(
                f"frames are {frames.shape[3]}x{frames.shape[2]}; expected at least the crop, "
                f"{crop[1]}x{crop[0]}"
            )
        y, x = (int(torch.randint(most + 1, (), generator=generator)) for most in spare)
        frames = frames[:, :, y : y + crop[0], x : x + crop[1]]
        if torch.rand((), generator=generator) < 0.5:
            frames = frames.flip(-1)
        found.append(frames)
    return list(torch.stack(found, 1))
