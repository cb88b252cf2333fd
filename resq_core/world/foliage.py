"""Crowns of trees: thousands of leaves painted once, then placed like cut-out pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from resq_core.world.canvas import Colour, mix

__all__ = ["CROWNS", "Crown", "crown"]

CROWNS = 6
_SIDE = 384
_LEAVES: tuple[Colour, ...] = (
    (74, 94, 48),
    (92, 104, 52),
    (64, 88, 56),
    (112, 108, 58),
    (82, 100, 62),
    (70, 82, 44),
)
_TWIG: Colour = (70, 60, 50)
_CLUMPS, _DABS = 46, 30


@dataclass(frozen=True, slots=True)
class Crown:
    """A crown seen from the side.

    levels: (colours RGB, coverage L) at 384 pixels a side, then 192, 96, 48.
    """

    levels: tuple[tuple[Image.Image, Image.Image], ...]


@lru_cache(maxsize=CROWNS)
def crown(variant: int) -> Crown:
    """One of `CROWNS` crowns."""
    rng = np.random.default_rng([variant, 4177])
    leaf = _LEAVES[variant % len(_LEAVES)]
    colours = Image.new("RGB", (_SIDE, _SIDE), mix(leaf, (0, 0, 0), 0.35))
    cover = Image.new("L", (_SIDE, _SIDE), 0)
    pens = ImageDraw.Draw(colours), ImageDraw.Draw(cover)
    _twigs(pens, rng)
    clumps = [_clump(rng) for _ in range(_CLUMPS)]
    for x, y, size in sorted(clumps, key=lambda c: c[0] * 0.35 - c[1]):
        _leaves(pens, rng, leaf, (x, y, size))
    levels = [(colours, cover)]
    for _ in range(3):
        levels.append((levels[-1][0].reduce(2), levels[-1][1].reduce(2)))
    return Crown(tuple(levels))


def _clump(rng: np.random.Generator) -> tuple[float, float, float]:
    """Column, row and size of a clump of leaves, in a crown that is broadest below its middle."""
    angle, out = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
    y = 0.53 + 0.36 * out * np.sin(angle)
    breadth = 0.37 * (1.0 - 0.35 * max(0.0, 0.5 - y) / 0.36)
    return 0.5 + breadth * out * np.cos(angle), y, rng.uniform(0.07, 0.12)


def _twigs(pens: tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw], rng: np.random.Generator) -> None:
    foot = (_SIDE * 0.5, _SIDE * 1.0)
    for _ in range(9):
        x, y, _size = _clump(rng)
        bend = (foot[0] + (x * _SIDE - foot[0]) * 0.35, _SIDE * (0.4 * y + 0.45))
        path = [foot, bend, (x * _SIDE, y * _SIDE)]
        pens[0].line(path, fill=_TWIG, width=5)
        pens[1].line(path, fill=255, width=5)


def _leaves(
    pens: tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw],
    rng: np.random.Generator,
    leaf: Colour,
    clump: tuple[float, float, float],
) -> None:
    """Dabs around a clump's middle: light where they face the sun, up on the right."""
    x, y, size = clump
    shifts = rng.normal(0, 1, (_DABS, 2))
    order = np.argsort(shifts[:, 0] * 0.5 - shifts[:, 1])
    for dx, dy in shifts[order]:
        sunny = 0.30 * dx - 0.42 * dy + 1.5 * (x - 0.5) - 1.9 * (y - 0.5)
        tint = mix(leaf, (26, 38, 26), float(np.clip(0.34 - 0.42 * sunny, 0, 0.72)))
        tint = mix(tint, (222, 214, 132), float(np.clip(0.34 * sunny - 0.05, 0, 0.42)))
        tint = mix(tint, (120, 92, 48), float(rng.uniform(0, 0.12)))
        u, v = (x + size * 0.62 * dx) * _SIDE, (y + size * 0.55 * dy) * _SIDE
        a, b = rng.uniform(4, 9), rng.uniform(3, 6.5)
        box = (u - a, v - b, u + a, v + b)
        pens[0].ellipse(box, fill=tint)
        pens[1].ellipse(box, fill=255)
