"""Both sides of the street: terraces, shops and flats, with a park gap here and there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resq_core.world.canvas import Canvas, Colour, mix
from resq_core.world.plan import FACADE, Cls
from resq_core.world.ring import LENGTH, place, randomness

__all__ = ["PARK", "Building", "buildings", "paint_building"]

SLOTS = 7
WIDTH = LENGTH / SLOTS
PARK = 3
"""The slot that holds trees behind a fence on one side."""

_WALLS: tuple[Colour, ...] = (
    (142, 96, 78),
    (158, 116, 92),
    (176, 152, 122),
    (190, 178, 158),
    (120, 92, 84),
    (201, 192, 178),
    (150, 138, 126),
    (168, 124, 104),
)
_FRONTS: tuple[Colour, ...] = (
    (38, 62, 58),
    (92, 38, 36),
    (40, 48, 78),
    (62, 58, 52),
    (120, 96, 44),
)
_GLASS: Colour = (62, 72, 84)
_LIT: Colour = (236, 204, 142)
_ROOF: Colour = (84, 78, 80)
_SHADE = 0.62  # how much of its colour the side away from the sun keeps


@dataclass(frozen=True, slots=True)
class Building:
    """One house front.

    side: -1 left, +1 right. start, end: metres along the street. wall, front: colours.
    floors: above the ground floor. shop: a shop on the ground floor. pitched: a sloping roof.
    bays: windows per floor. lit: share of lit windows. seed: of the details.
    """

    side: int
    start: float
    end: float
    wall: Colour
    front: Colour
    floors: int
    shop: bool
    pitched: bool
    bays: int
    lit: float
    seed: int

    @property
    def height(self) -> float:
        """Metres to the eaves."""
        return 3.9 + 3.0 * self.floors


def buildings(seed: int, camera_z: float) -> list[Building]:
    """All fronts on the ring, the farthest first."""
    found = []
    for side in (-1, 1):
        for slot in range(SLOTS):
            if side == -1 and slot == PARK:
                continue
            offset = slot * WIDTH + (3.0 if side == 1 else 0.0)
            at = place(offset, 0.0, 0.0, camera_z + WIDTH)  # it may begin behind the ring's end
            rng = randomness(seed, f"building{side}", slot, at.lap)
            found.append(
                Building(
                    side=side,
                    start=at.z,
                    end=at.z + WIDTH,
                    wall=_WALLS[int(rng.integers(len(_WALLS)))],
                    front=_FRONTS[int(rng.integers(len(_FRONTS)))],
                    floors=int(rng.integers(1, 4)),
                    shop=bool(rng.random() < 0.6),
                    pitched=bool(rng.random() < 0.6),
                    bays=int(rng.integers(4, 7)),
                    lit=float(rng.random() * 0.25),
                    seed=int(rng.integers(1 << 30)),
                )
            )
    return sorted(found, key=lambda b: -b.start)


def paint_building(canvas: Canvas, b: Building) -> None:
    """Paint one front with all that is on it."""
    wall = b.wall if b.side == -1 else mix((0, 0, 0), b.wall, _SHADE)
    gable = mix((0, 0, 0), b.wall, 0.82)
    x, back, h = b.side * FACADE, b.side * (FACADE + 9), b.height
    canvas.surface(
        [(x, 0, b.start), (back, 0, b.start), (back, h, b.start), (x, h, b.start)],
        gable,
        Cls.BUILDING,
    )
    if b.pitched:
        ridge = b.side * (FACADE + 3.2)
        canvas.surface(
            [(x, h, b.start), (ridge, h + 2.6, b.start), (b.side * (FACADE + 6.4), h, b.start)],
            gable,
            Cls.BUILDING,
        )
        roof = _ROOF if b.side == -1 else mix((0, 0, 0), _ROOF, 0.8)
        canvas.surface(
            [(x, h, b.start), (x, h, b.end), (ridge, h + 2.6, b.end), (ridge, h + 2.6, b.start)],
            roof,
            Cls.BUILDING,
        )
    _panel(canvas, b, b.start, b.end, 0, h, wall)
    _panel(canvas, b, b.start, b.end, h - 0.35, h, mix(wall, (255, 255, 255), 0.3))
    if canvas.camera.scale(x, b.end) * 1.3 > 1.2:
        _windows(canvas, b)


def _panel(
    canvas: Canvas, b: Building, z0: float, z1: float, y0: float, y1: float, colour: Colour
) -> None:
    """A rectangle of the front."""
    x = b.side * (FACADE - 0.02)
    canvas.surface([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], colour, Cls.BUILDING)


def _windows(canvas: Canvas, b: Building) -> None:
    rng = np.random.default_rng(b.seed)
    dark = 1.0 if b.side == -1 else 0.75
    step = (b.end - b.start) / b.bays
    trim = mix((0, 0, 0), (226, 222, 214), dark)
    for floor in range(1, b.floors + 1):
        low = 1.2 + 3.0 * floor
        for bay in range(b.bays):
            z = b.start + step * (bay + 0.5)
            glass = (
                _LIT if rng.random() < b.lit else mix(_GLASS, (150, 170, 190), rng.random() * 0.4)
            )
            _window(canvas, b, z, low, 1.0, 1.55, trim, mix((0, 0, 0), glass, dark))
    if b.shop:
        _shop(canvas, b, rng, dark)
        return
    for bay in range(b.bays):
        z = b.start + step * (bay + 0.5)
        if bay == b.bays // 2:
            _panel(canvas, b, z - 0.62, z + 0.62, 0, 2.45, trim)
            _panel(canvas, b, z - 0.5, z + 0.5, 0, 2.3, b.front)
        else:
            glass = mix((0, 0, 0), mix(_GLASS, (150, 170, 190), rng.random() * 0.4), dark)
            _window(canvas, b, z, 0.95, 1.1, 1.5, trim, glass)


def _window(
    canvas: Canvas,
    b: Building,
    z: float,
    low: float,
    width: float,
    height: float,
    trim: Colour,
    glass: Colour,
) -> None:
    half = width / 2
    _panel(canvas, b, z - half - 0.1, z + half + 0.1, low - 0.14, low + height + 0.08, trim)
    _panel(canvas, b, z - half, z + half, low, low + height, glass)
    if canvas.camera.scale(b.side * FACADE, z) > 14:
        _panel(canvas, b, z - half, z + half, low + height * 0.5, low + height * 0.5 + 0.05, trim)
        _panel(canvas, b, z - 0.03, z + 0.03, low, low + height, trim)


def _shop(canvas: Canvas, b: Building, rng: np.random.Generator, dark: float) -> None:
    front = mix((0, 0, 0), b.front, dark)
    _panel(canvas, b, b.start + 0.3, b.end - 0.3, 0, 3.3, front)
    _panel(canvas, b, b.start + 0.3, b.end - 0.3, 2.75, 3.3, mix(front, (255, 240, 210), 0.25))
    _panel(canvas, b, b.start + 2.0, b.end - 5.0, 2.92, 3.14, mix(front, (255, 246, 224), 0.75))
    panes = 4
    step = (b.end - b.start - 1.2) / panes
    for pane in range(panes):
        z0 = b.start + 0.6 + step * pane
        shown = mix(_GLASS, _LIT, float(rng.random()) * 0.8)
        _panel(canvas, b, z0 + 0.12, z0 + step - 0.12, 0.55, 2.6, mix((0, 0, 0), shown, dark))
        if pane == 1:
            _panel(canvas, b, z0 + 0.9, z0 + 2.1, 0.05, 2.5, mix((0, 0, 0), _GLASS, dark * 0.8))
