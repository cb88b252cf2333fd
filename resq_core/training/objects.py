"""Training for video object segmentation: things that move over pictures, and STM over frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor, nn

from resq_core.errors import InputError, OptionError
from resq_core.models import STM, efficientnet
from resq_core.models.objects import STRIDE, aggregate
from resq_core.tasks.pictures import Picture
from resq_core.training.float_network import FloatNetwork
from resq_core.training.sequences import Batch, recoloured

__all__ = ["Followed", "ObjectNetwork", "ObjectSource", "followed"]

Paint = Callable[[Picture, int, np.random.Generator], NDArray[np.uint8]]
"""A picture, a side in pixels and a generator, to something uint8 [side, side, 4], RGBA."""

_PACE, _PACE_TRAINED = 0.05, 5.0  # of the heads, beside encoders from scratch and trained ones
_THINGS = 2  # in a scene
_SPRITE = 160  # side of what a thing is painted on, pixels
_PAINTED = 0.3  # of the things; the others are pieces of pictures
_ALONE = 0.35  # of the scenes: the second thing is there, but not followed
_SEEN = 0.01  # of the frame: the least of a thing that is followed
_SIZES = (0.3, 0.95)  # of a thing, in sides of the frame
_MOVES = 0.12  # standard deviations from frame to frame: of places, in half sides
_TURNS = 0.12  # radians
_GROWS = 0.07  # of the logarithm of the size
_BENDS = 0.06  # at most, in half sides of the thing
_LIGHT = 0.06  # of the logarithm of the brightness
_NOISE = 0.03  # at most, of values from 0 to 1
_JITTER = 0.25  # of light and colour of a scene


class Followed(NamedTuple):
    """What an `ObjectNetwork` says about a frame after the first.

    Attributes:
        logits: float32 [B, 1 + K, H, W], of background and objects.
        attention: float32 [N, t · h · w, h · w], 16 pixels a place: how much each place of the
            frame, the last dimension, reads from the places of the t frames before it, for each
            of the N objects that the batch follows, by scene and then by slot.
    """

    logits: Tensor
    attention: Tensor


class ObjectNetwork(FloatNetwork):
    """An STM that follows objects over a few frames, every one but the last remembered.

    Its heads are keys, values and the decoder: no batch norm follows them, so the steps that suit
    an encoder from scratch would move their outputs by whole units, and attention would end as all
    or nothing. Beside a backbone that was trained on pictures it is they that have to learn: it
    learns slowly, and its batch norms keep their means and variances.

    Args:
        network: what learns.
        mixed: see `FloatNetwork`.
    """

    def __init__(self, network: STM, mixed: bool = True) -> None:
        super().__init__(network, mixed)
        self.network: STM
        self._trained = network.backbone == efficientnet.NAME
        self.head_pace = _PACE_TRAINED if self._trained else _PACE
        self.train()

    def train(self, mode: bool = True) -> ObjectNetwork:
        """As for any module, but for the batch norms named above."""
        super().train(mode)
        if self._trained:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def heads(self) -> Iterator[nn.Parameter]:
        """Parameters of keys, values and the decoder."""
        for part in (self.network.KV_M_r4, self.network.KV_Q_r4, self.network.Decoder):
            yield from part.parameters()

    def forward(self, frames: Sequence[Tensor]) -> list[Followed]:
        """Objects of the first frame, in all later ones.

        Args:
            frames: the first float32 [B, 3 + K, H, W]: RGB from 0 to 1, then masks of up to K
                objects, empty where there are fewer; the others [B, 3, H, W]. 16 divides H and W.

        Returns:
            One for every frame but the first, with gradients.
        """
        masks = frames[0][:, 3:]
        owners, slots = followed(masks)
        memory: list[tuple[Tensor, Tensor]] = []
        outputs: list[Followed] = []
        for t, frame in enumerate(frames):
            if t:
                outputs.append(self._segmented(frame, memory, masks, owners))
                masks = outputs[-1].logits.softmax(1)[:, 1:]
            if t < len(frames) - 1:
                own = masks[owners, slots]
                others = (masks.sum(1)[owners] - own).clamp(0, 1)
                with self._autocast(frame):
                    features = self.network.Encoder_M(frame[owners, :3], own, others)
                    memory.append(self.network.KV_M_r4(features))
        return outputs

    def _segmented(
        self, frame: Tensor, memory: Sequence[tuple[Tensor, Tensor]], masks: Tensor, owners: Tensor
    ) -> Followed:
        net = self.network
        with self._autocast(frame):
            r4, r3, r2 = net.Encoder_Q(frame)
            key, value = (part[owners] for part in net.KV_Q_r4(r4))
            keys, values = (torch.stack(parts, 2) for parts in zip(*memory, strict=True))
            attention = net.Memory.attention(keys, key)
            read = net.Memory.read(attention, values, value)
            logits = net.Decoder(read, r3[owners], r2[owners])
        found = logits.float().softmax(1)[:, 1]
        scenes = [found[owners == i] for i in range(len(frame))]
        joined = torch.cat([aggregate(scene, 1 + masks.shape[1]) for scene in scenes])
        return Followed(joined, attention.float())


def followed(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Scene and slot of every object, int64 [N], of the first frame's masks [B, K, H, W]."""
    owners, slots = masks.amax((2, 3)).nonzero(as_tuple=True)
    return owners, slots


@dataclass(frozen=True)
class ObjectSource:
    """Scenes of two things that move, turn, grow and bend before a picture under a camera.

    A thing is a piece of another picture with a smooth outline, or painted. One may hide the
    other. In a third of the scenes only the first is followed.

    Attributes:
        pictures: uint8 [H, W, 3] RGB, of anything, at least 16 pixels a side.
        paint: what else things may be; `resq_core.world.cut_out`.
        size: side of the square frames, a multiple of 16.
        pace: what all motion is multiplied by, 0 or more.

    Raises:
        InputError: there is no picture, or it is too small.
        OptionError: 16 does not divide the size, or the pace is below 0.
    """

    pictures: Sequence[Picture]
    paint: Paint
    size: int
    pace: float = 1.0

    def __post_init__(self) -> None:
        if not self.pictures:
            raise InputError("0 pictures given; expected one at least to move things over")
        least = min(min(picture.shape[:2]) for picture in self.pictures)
        if least < STRIDE:
            raise InputError(f"a picture is {least} pixels wide or high; expected at least 16")
        if self.size < STRIDE or self.size % STRIDE:
            raise OptionError(f"size is {self.size}; expected a multiple of {STRIDE}")
        if not self.pace >= 0:
            raise OptionError(f"pace is {self.pace}; expected 0 or more")

    def batch(self, size: int, length: int, generator: torch.Generator) -> Batch:
        """`size` scenes of `length` frames, as `ObjectNetwork` takes them.

        Labels are 0 for the background and for a thing that is not followed, 1 and 2 for others.
        """
        scenes = [self._scene(length, generator) for _ in range(size)]
        frames = list(torch.stack([scene[0] for scene in scenes], 1))
        labels = list(torch.stack([scene[1] for scene in scenes], 1))
        known = [labels[0] == slot for slot in range(1, 1 + _THINGS)]
        frames[0] = torch.cat([frames[0], torch.stack(known, 1).float()], 1)
        return Batch(frames, labels)

    def _scene(self, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Frames [T, 3, H, W] and labels int64 [T, H, W], of which the first has one thing."""
        while True:
            rng = np.random.default_rng(int(torch.randint(1 << 62, (), generator=generator)))
            frames, covers = self._composed(length, rng)
            shown = [bool((cover[0] > 0.5).float().mean() >= _SEEN) for cover in covers]
            if rng.random() < _ALONE:
                shown[1:] = [False] * (_THINGS - 1)
            if any(shown):
                break
        labels = torch.zeros(length, self.size, self.size, dtype=torch.int64)
        for slot, i in enumerate((i for i in range(_THINGS) if shown[i]), 1):
            labels[covers[i] > 0.5] = slot
        return recoloured(frames, _JITTER, generator).clamp(0, 1), labels

    def _composed(self, length: int, rng: np.random.Generator) -> tuple[Tensor, list[Tensor]]:
        """Frames, and how much of each pixel is of each thing, float32 [T, H, W]."""
        frames = self._background(length, rng)
        covers: list[Tensor] = []
        for _ in range(_THINGS):
            moved = self._moved(self._thing(rng), length, rng)
            colours, cover = moved[:, :3], moved[:, 3]
            frames = frames * (1 - cover[:, None]) + colours
            covers = [below * (1 - cover) for below in covers] + [cover]
        if rng.random() < 0.5:
            covers.reverse()
        light = torch.from_numpy(rng.normal(0, _LIGHT, (length, 1, 1, 1))).float().exp()
        noise = torch.from_numpy(rng.standard_normal(frames.shape, np.float32))
        return frames * light + noise * float(rng.uniform(0, _NOISE)), covers

    def _picture(self, rng: np.random.Generator) -> Picture:
        return self.pictures[int(rng.integers(len(self.pictures)))]

    def _background(self, length: int, rng: np.random.Generator) -> Tensor:
        picture = _tensor(self._picture(rng))
        height, width = picture.shape[1:]
        side = rng.uniform(0.4, 0.9) * min(height, width)
        place = rng.uniform(-1, 1, 2) * (1 - side / np.array((width, height)))
        views = []
        for x, y, turn, grown in _path(length, rng, self.pace * 0.5 * float(rng.random() < 0.7)):
            seen = _affine(turn * 0.3, math.exp(grown))
            seen = np.diag((side / width, side / height)) @ seen
            shift = place + np.array((x * side / width, y * side / height))
            views.append(np.column_stack((seen, shift)))
        return _sampled(picture, np.stack(views), self.size, "reflection")

    def _thing(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        if rng.random() < _PAINTED:
            return self.paint(self._picture(rng), _SPRITE, rng)
        return _piece(self._picture(rng), _SPRITE, rng)

    def _moved(self, thing: NDArray[np.uint8], length: int, rng: np.random.Generator) -> Tensor:
        """It in every frame: RGB times alpha, and alpha, [T, 4, H, W]."""
        sprite = _tensor(thing)
        sprite = torch.cat([sprite[:3] * sprite[3:], sprite[3:]])
        side, start = float(rng.uniform(*_SIZES)), rng.uniform(-0.6, 0.6, 2)
        views = []
        for x, y, turn, grown in _path(length, rng, self.pace):
            seen = _affine(-turn, math.exp(-grown) / side)
            views.append(np.column_stack((seen, -seen @ (start + np.array((x, y))))))
        return _sampled(sprite, np.stack(views), self.size, "zeros", _bend(rng))


Bend = Callable[[Tensor, int], Tensor]


def _bend(rng: np.random.Generator) -> Bend:
    """A wave through places [H, W, 2] that goes on from frame to frame."""
    strength = float(rng.uniform(0, _BENDS))
    waves = torch.from_numpy(rng.normal(0, 2.5, (2, 2))).float()
    phases, speeds = torch.from_numpy(rng.uniform(0, 2 * math.pi, (2, 2)) * ((1,), (0.3,))).float()

    def bent(places: Tensor, t: int) -> Tensor:
        return places + strength * torch.sin(places @ waves + phases + t * speeds)

    return bent


def _path(length: int, rng: np.random.Generator, much: float) -> NDArray[np.float64]:
    """Of every frame: place (x, y), angle and logarithm of the size, which begin at 0; [T, 4]."""
    scale = np.array((_MOVES, _MOVES, _TURNS, _GROWS)) * much
    speed, shake = rng.normal(0, scale), rng.normal(0, scale / 3, (length, 4))
    shake[0] = 0
    return np.asarray(np.arange(length)[:, None] * speed + shake)


def _affine(turn: float, scale: float) -> NDArray[np.float64]:
    sine, cosine = math.sin(turn), math.cos(turn)
    return np.array(((cosine, -sine), (sine, cosine))) * scale


def _tensor(picture: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _sampled(
    picture: Tensor, views: NDArray[np.float64], size: int, beyond: str, bend: Bend | None = None
) -> Tensor:
    """What frames [T, C, size, size] see of a picture [C, h, w]; views are [T, 2, 3]."""
    length = len(views)
    theta = torch.from_numpy(views).float()
    grid = F.affine_grid(theta, [length, picture.shape[0], size, size], align_corners=False)
    if bend is not None:
        grid = torch.stack([bend(places, t) for t, places in enumerate(grid)])
    whole = picture.expand(length, -1, -1, -1)
    return F.grid_sample(whole, grid, padding_mode=beyond, align_corners=False)


def _piece(picture: Picture, side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A piece of a picture with a smooth outline of its own, RGBA."""
    height, width = picture.shape[:2]
    cut = int(rng.uniform(0.15, 0.6) * min(height, width))
    top, left = (int(rng.integers(0, most - cut + 1)) for most in (height, width))
    part = Image.fromarray(picture[top : top + cut, left : left + cut]).resize((side, side))
    angles = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    waves = sum(
        rng.normal(0, 0.45 / k) * np.cos(k * angles + rng.uniform(0, 2 * math.pi))
        for k in range(1, 6)
    )
    radii = np.exp(np.clip(waves, -1.2, 1.2))
    radii *= 0.47 * side / radii.max()
    stretched = rng.uniform(0.45, 1.0)
    outline = [
        (side / 2 + radius * math.cos(a), side / 2 + radius * stretched * math.sin(a))
        for radius, a in zip(radii, angles, strict=True)
    ]
    alpha = Image.new("L", (side, side))
    ImageDraw.Draw(alpha).polygon(outline, fill=255)
    part.putalpha(alpha.filter(ImageFilter.GaussianBlur(1)))
    return np.asarray(part)
