"""Shadows on the ground: the sun stands to the right, so they fall to the left."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from resq_core.world.bicyclists import Bicyclist
from resq_core.world.canvas import Canvas
from resq_core.world.cars import Car
from resq_core.world.houses import Building
from resq_core.world.people import Walker
from resq_core.world.plan import FACADE
from resq_core.world.props import Prop

__all__ = ["paint_shadows"]

_REACH = 0.62  # metres to the left per metre of height
_AHEAD = 0.22
_Y = 0.02


def paint_shadows(
    canvas: Canvas,
    fronts: Sequence[Building],
    trees: Sequence[Prop],
    cars: Sequence[Car],
    walkers: Sequence[Walker] = (),
    bicyclists: Sequence[Bicyclist] = (),
) -> None:
    """Darken the ground where something stands in the sun."""
    for front in fronts:
        if front.side == 1:
            edge = FACADE - _REACH * front.height
            corners = [(FACADE, front.start), (edge, front.start), (edge, front.end)]
            outline = [(x, _Y, z) for x, z in (*corners, (FACADE, front.end))]
            canvas.shade(outline, 0.3)
    for tree in trees:
        _ellipse(canvas, tree.x - 2.6, tree.z + 0.9, 1.9, 1.5, 0.16)
    for car in cars:
        u, w = 2.15, 0.9
        corners = [(car.x - w - 0.5, car.z - u), (car.x + w, car.z - u), (car.x + w, car.z + u)]
        _shade(canvas, [*corners, (car.x - w - 0.5, car.z + u + 0.2)], 0.5)
    for walker in walkers:
        reach = _REACH * walker.height
        x, z = walker.x - reach / 2, walker.z + _AHEAD * walker.height / 2
        _ellipse(canvas, x, z, reach / 2 + 0.2, 0.22, 0.32)
    for rider in bicyclists:
        _ellipse(canvas, rider.x - 0.5, rider.z, 0.6, 0.75, 0.32)


def _ellipse(canvas: Canvas, x: float, z: float, a: float, b: float, darkness: float) -> None:
    angles = np.linspace(0, 2 * math.pi, 20, endpoint=False)
    _shade(canvas, [(x + a * math.cos(v), z + b * math.sin(v)) for v in angles], darkness)


def _shade(canvas: Canvas, outline: Sequence[tuple[float, float]], darkness: float) -> None:
    """Three outlines, one in another: the sun is no point."""
    x0, z0 = (sum(p[axis] for p in outline) / len(outline) for axis in (0, 1))
    for size in (1.07, 1.0, 0.93):
        scaled = [(_inside(x0 + size * (x - x0)), _Y, z0 + size * (z - z0)) for x, z in outline]
        canvas.shade(scaled, darkness / 2.7)


def _inside(x: float) -> float:
    """Between the fronts: a shadow on the ground does not go up a wall."""
    return min(max(x, -FACADE), FACADE)
