"""How houses are painted: gable, roof, chimney, and the front with its picture."""

from __future__ import annotations

from resq_core.world.canvas import Canvas, Colour, mix
from resq_core.world.facades import PER_METRE, facade
from resq_core.world.houses import Building
from resq_core.world.plan import FACADE, Cls

__all__ = ["paint_building"]

_DEEP, _RISE = 6.4, 2.6  # metres from the front to the back eaves, and up to the ridge
_BLACK: Colour = (0, 0, 0)


def paint_building(canvas: Canvas, b: Building) -> None:
    """Paint one house. Those farther away must have been painted."""
    x, h = b.side * FACADE, b.height
    gable = mix(b.wall, (30, 34, 48), 0.22)
    back = b.side * (FACADE + 9)
    corners = [(x, 0, b.start), (back, 0, b.start), (back, h, b.start), (x, h, b.start)]
    canvas.surface(corners, gable, Cls.BUILDING)
    if b.pitched:
        _roof(canvas, b, gable)
    canvas.wall(x, (b.start, b.end), h + 0.2, facade(b), PER_METRE, Cls.BUILDING)


def _roof(canvas: Canvas, b: Building, gable: Colour) -> None:
    x, h = b.side * FACADE, b.height
    ridge, back = b.side * (FACADE + _DEEP / 2), b.side * (FACADE + _DEEP)
    tip = (ridge, h + _RISE, b.start)
    roof = b.roof if b.side == -1 else mix(b.roof, (20, 26, 44), 0.25)
    slope = [(x, h, b.start), (x, h, b.end), (ridge, h + _RISE, b.end), tip]
    canvas.surface(slope, roof, Cls.BUILDING)
    canvas.surface([(x, h, b.start), tip, (back, h, b.start)], gable, Cls.BUILDING)
    for z in (b.start, b.end - 1.2):
        _chimney(canvas, b, ridge, z)


def _chimney(canvas: Canvas, b: Building, ridge: float, z: float) -> None:
    near, far = ridge - b.side * 0.4, ridge + b.side * 0.4
    low, high = b.height + _RISE - 0.5, b.height + _RISE + 1.1
    brick: Colour = (138, 92, 74)
    dark = mix(brick, _BLACK, 0.3)
    front = [(near, low, z), (far, low, z), (far, high, z), (near, high, z)]
    side = [(near, low, z), (near, low, z + 1.2), (near, high, z + 1.2), (near, high, z)]
    canvas.surface(side, brick if b.side == -1 else mix(brick, _BLACK, 0.4), Cls.BUILDING)
    canvas.surface(front, dark, Cls.BUILDING)
    for pot in (0.25, 0.75):
        x = near + (far - near) * pot
        rim = [(x - 0.1, high, z), (x + 0.1, high, z), (x + 0.1, high + 0.35, z)]
        canvas.surface([*rim, (x - 0.1, high + 0.35, z)], (164, 112, 84), Cls.BUILDING)
