"""What is on a house front, painted once per house: brick, windows, doors, shops."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from resq_core.world.canvas import Colour, mix
from resq_core.world.houses import Building
from resq_core.world.mipmap import Mipmap

__all__ = ["PER_METRE", "facade"]

PER_METRE = 32
_TOP = 15.0  # metres that a picture of a front reaches up
_GLASS: Colour = (66, 76, 86)
_SKY: Colour = (172, 192, 210)
_LIT: Colour = (244, 210, 142)
_CREAM: Colour = (228, 224, 214)
_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)


@lru_cache(maxsize=40)
def facade(b: Building) -> Mipmap:
    """The front of a house: rows along the street from its start, columns up from the ground.

    There are `PER_METRE` rows and columns per metre.
    """
    width = -(-round((b.end - b.start) * PER_METRE) // 32) * 32
    height = round(_TOP * PER_METRE)
    rng = np.random.default_rng(b.seed)
    painter = _Painter(_wall(b, width, height, rng), b.end - b.start)
    _trim(painter, b)
    _storeys(painter, b, rng)
    if b.shop:
        _shop(painter, b, rng)
    else:
        _ground_floor(painter, b, rng)
    picture = np.asarray(painter.image, np.float32)
    light = np.array((1.04, 1.0, 0.94) if b.side < 0 else (0.7, 0.73, 0.8), np.float32)
    up = (height - 1 - np.arange(height, dtype=np.float32)) / PER_METRE
    grime = 1 - 0.14 * np.exp(-up / 0.5) - 0.16 * np.exp(-np.abs(b.height - 0.35 - up) / 0.35)
    lit = picture * light * grime[:, None, None]
    return Mipmap(np.ascontiguousarray(lit[::-1].transpose(1, 0, 2)))


class _Painter:
    """Paints rectangles in metres: z along the front, y up."""

    def __init__(self, image: Image.Image, length: float) -> None:
        self.image, self.length = image, length
        self._pen = ImageDraw.Draw(image)

    def rect(self, z0: float, z1: float, y0: float, y1: float, colour: Colour) -> None:
        """A filled rectangle, one pixel at least."""
        scale, top = PER_METRE, self.image.height
        box = (z0 * scale, top - y1 * scale, z1 * scale - 1, top - y0 * scale - 1)
        left, upper, right, lower = (round(v) for v in box)
        self._pen.rectangle((left, upper, max(left, right), max(upper, lower)), fill=colour)

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """A polygon of (z, y)."""
        top = self.image.height
        self._pen.polygon([(z * PER_METRE, top - y * PER_METRE) for z, y in points], fill=colour)


def _wall(b: Building, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Bricks, each of a slightly different colour, or plaster with stains."""
    soft = rng.standard_normal((12, 14)).astype(np.float32)
    stains = np.asarray(
        Image.fromarray(soft).resize((width, height), Image.Resampling.BICUBIC), np.float32
    )
    light: NDArray[np.float32] = 1 + 0.028 * stains
    if b.brick:
        course, brick = 4, 9  # pixels: larger than life, or they would vanish
        rows, columns = np.arange(height) // course, np.arange(width)
        tints = rng.normal(0, 0.07, (height // course + 1, width // brick + 2))
        at = (columns[None, :] + (rows[:, None] % 2) * (brick // 2)) // brick
        light = light + tints[rows[:, None], at].astype(np.float32)
        light[np.arange(height) % course == 0] += 0.05
    else:
        light = light + rng.normal(0, 0.012, (height, width)).astype(np.float32)
        drips = rng.standard_normal(width // 6 + 1).repeat(6)[:width].astype(np.float32)
        fall = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None] ** 2
        light -= 0.02 * np.maximum(drips, 0) * (1 - fall)
    wall = np.array(b.wall, np.float32) * light[..., None]
    return Image.fromarray(np.clip(wall, 0, 255).astype(np.uint8))


def _trim(p: _Painter, b: Building) -> None:
    """Cornice, a course between the floors, plinth, drainpipe."""
    pale = mix(b.wall, _WHITE, 0.4)
    h, end = b.height, p.length
    p.rect(0, end, h - 0.62, h - 0.5, mix(b.wall, _BLACK, 0.35))
    p.rect(0, end, h - 0.5, h + 0.2, pale)
    p.rect(0, end, h - 0.2, h - 0.14, mix(pale, _BLACK, 0.2))
    p.rect(0, end, 3.62, 3.82, pale)
    p.rect(0, end, 3.55, 3.62, mix(b.wall, _BLACK, 0.32))
    p.rect(0, end, 0, 0.45, mix(b.wall, (70, 66, 64), 0.45))
    p.rect(0.14, 0.26, 0, h - 0.5, mix(b.wall, (40, 40, 44), 0.75))
    p.rect(0.26, 0.34, 0, h - 0.5, mix(b.wall, _BLACK, 0.25))
    p.rect(end - 0.05, end, 0, h, mix(b.wall, _BLACK, 0.3))


def _storeys(p: _Painter, b: Building, rng: np.random.Generator) -> None:
    step = (p.length - 0.6) / b.bays
    width = min(1.15, step * 0.56)
    for floor in range(1, b.floors + 1):
        tall = 1.75 if floor == 1 else 1.5
        for bay in range(b.bays):
            z = 0.4 + step * (bay + 0.5)
            _window(p, b, rng, (z, 1.2 + 3.0 * floor, width, tall))


def _window(
    p: _Painter, b: Building, rng: np.random.Generator, place: tuple[float, float, float, float]
) -> None:
    """A sash window; place: (middle, sill height, width, height) in metres."""
    z, low, width, tall = place
    a, e, top = z - width / 2, z + width / 2, low + tall
    frame = _CREAM if b.trim else mix(b.front, _CREAM, 0.25)
    p.rect(a - 0.16, e + 0.16, top, top + 0.24, mix(b.wall, _WHITE, 0.32))
    p.rect(a - 0.16, e + 0.16, low - 0.3, low - 0.12, mix(b.wall, _BLACK, 0.25))
    p.rect(a - 0.2, e + 0.2, low - 0.14, low, mix(b.wall, _WHITE, 0.5))
    p.rect(a - 0.06, e + 0.06, low, top, mix(b.wall, _BLACK, 0.45))
    p.rect(a, e, low, top - 0.05, frame)
    lit = rng.random() < b.lit
    glass = mix(_LIT, (180, 130, 80), rng.uniform(0, 0.4)) if lit else _GLASS
    edge = 0.08
    p.rect(a + edge, e - edge, low + edge, top - edge - 0.05, glass)
    if not lit:
        sky = mix(glass, _SKY, rng.uniform(0.15, 0.6))
        slant = rng.uniform(0.2, 0.7)
        corners = [(a + edge, top - 0.13), (e - edge, top - 0.13), (e - edge, low + tall * slant)]
        p.shape([*corners, (a + edge, low + tall * slant * 0.55)], sky)
    if rng.random() < 0.55:
        cloth = mix(glass, (226, 216, 200), 0.5)
        p.rect(a + edge, a + edge + width * 0.17, low + edge, top - 0.13, cloth)
        p.rect(e - edge - width * 0.17, e - edge, low + edge, top - 0.13, cloth)
    p.rect(a, e, low + tall * 0.5 - 0.035, low + tall * 0.5 + 0.035, frame)
    p.rect(z - 0.025, z + 0.025, low, top - 0.05, frame)
    p.rect(a, e, top - 0.13, top - 0.05, mix(frame, _BLACK, 0.35))


def _ground_floor(p: _Painter, b: Building, rng: np.random.Generator) -> None:
    """Windows, and a front door with a fanlight and steps."""
    step = (p.length - 0.6) / b.bays
    for bay in range(b.bays):
        z = 0.4 + step * (bay + 0.5)
        if bay != b.bays // 2:
            _window(p, b, rng, (z, 1.05, min(1.3, step * 0.6), 1.75))
            continue
        p.rect(z - 0.86, z + 0.86, 0, 3.1, mix(b.wall, _BLACK, 0.35))
        p.rect(z - 0.8, z + 0.8, 0, 3.06, _CREAM)
        p.rect(z - 0.56, z + 0.56, 0.3, 2.9, mix(b.front, _BLACK, 0.4))
        p.rect(z - 0.5, z + 0.5, 0.3, 2.36, b.front)
        p.rect(z - 0.5, z + 0.5, 2.44, 2.86, mix(_GLASS, _LIT, 0.5))
        for y in (0.55, 1.4):
            for side in (-0.4, 0.06):
                panel = (z + side, z + side + 0.34, y, y + 0.7)
                p.rect(*panel, mix(b.front, _BLACK, 0.25))
        p.rect(z + 0.38, z + 0.44, 1.28, 1.36, (214, 184, 96))
        p.rect(z - 1.0, z + 1.0, 0, 0.16, (158, 154, 148))
        p.rect(z - 0.85, z + 0.85, 0.16, 0.3, (176, 172, 166))


def _shop(p: _Painter, b: Building, rng: np.random.Generator) -> None:
    end = p.length
    p.rect(0.45, end - 0.45, 0, 3.56, mix(b.front, _BLACK, 0.1))
    p.rect(0.45, end - 0.45, 2.78, 3.5, mix(b.front, _WHITE, 0.06))
    p.rect(0.45, end - 0.45, 3.42, 3.56, mix(b.front, _WHITE, 0.35))
    p.rect(0.45, end - 0.45, 2.7, 2.78, mix(b.front, _BLACK, 0.5))
    _lettering(p, b, rng)
    panes = 5
    step = (end - 1.3) / panes
    for pane in range(panes):
        z0 = 0.65 + step * pane
        if pane == int(b.seed % panes):
            _shop_door(p, b, z0, step)
        else:
            _display(p, rng, (z0 + 0.1, z0 + step - 0.1))
    if b.seed % 5 < 1:
        _awning(p, b)


def _shop_door(p: _Painter, b: Building, z0: float, step: float) -> None:
    p.rect(z0 + 0.3, z0 + step - 0.3, 0.05, 2.62, mix(b.front, _BLACK, 0.55))
    p.rect(z0 + 0.42, z0 + step - 0.42, 0.35, 2.5, mix(_GLASS, _LIT, 0.35))
    p.rect(z0 + 0.42, z0 + step - 0.42, 1.05, 1.13, mix(b.front, _BLACK, 0.4))


def _lettering(p: _Painter, b: Building, rng: np.random.Generator) -> None:
    """A name over the shop that nobody can read: strokes the size of letters."""
    ink = mix(b.front, (255, 244, 216), 0.86)
    z, last = p.length * 0.24, p.length * 0.76
    while z < last:
        wide = float(rng.uniform(0.14, 0.3))
        if rng.random() < 0.82:
            p.rect(z, z + 0.07, 2.95, 3.3, ink)
            p.rect(z, z + wide, 2.95 + 0.28 * int(rng.integers(2)), 3.03 + 0.28, ink)
            p.rect(z + wide - 0.06, z + wide, 2.95, 3.3 - 0.12 * int(rng.integers(3)), ink)
        z += wide + 0.12


def _display(p: _Painter, rng: np.random.Generator, span: tuple[float, float]) -> None:
    """A shop window with things in it, brighter where the lamps are."""
    a, e = span
    glow = rng.uniform(0.15, 0.85)
    for i in range(12):
        y = 0.6 + i * 0.165
        p.rect(a, e, y, y + 0.17, mix(_GLASS, _LIT, glow * (0.35 + 0.055 * i)))
    for _ in range(7):
        z, size = rng.uniform(a + 0.1, e - 0.4), rng.uniform(0.15, 0.4)
        hue = mix((190, 90, 70), (70, 110, 150), rng.random())
        p.rect(z, z + size, 0.66, 0.66 + size * rng.uniform(1.0, 2.6), mix(hue, _GLASS, 0.5))
    lean = (e - a) * 0.3
    shine = mix(_GLASS, _SKY, 0.5)
    p.shape([(a, 2.58), (a + lean, 2.58), (a + lean * 0.3, 0.6), (a, 0.6)], mix(shine, _GLASS, 0.5))
    p.rect(a, e, 2.5, 2.58, mix(_GLASS, _BLACK, 0.5))


def _awning(p: _Painter, b: Building) -> None:
    """A striped awning over the windows."""
    z, stripe = 0.5, 0.45
    p.rect(0.6, p.length - 0.6, 2.0, 2.3, mix(_GLASS, _BLACK, 0.3))
    while z < p.length - 0.5:
        pale = int(z / stripe) % 2 == 0
        colour = _CREAM if pale else mix(b.front, (190, 60, 50), 0.3)
        stop = min(z + stripe, p.length - 0.5)
        p.rect(z, stop, 2.3, 2.8, colour)
        p.rect(z, stop, 2.18, 2.34, mix(colour, _BLACK, 0.14))
        z += stripe
