"""Shadows on the ground: the sun stands to the right, so they fall to the left."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from resq_core.world.buildings import Building
from resq_core.world.canvas import Canvas
from resq_core.world.people import Walker
from resq_core.world.plan import FACADE
from resq_core.world.props import Prop
from resq_core.world.vehicles import Bicyclist, Car

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
            _shade(canvas, [*corners, (FACADE, front.end)], 0.34)
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
    canvas.shade([(x, _Y, z) for x, z in outline], darkness)
