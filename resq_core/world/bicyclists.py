"""Bicyclists. They go along the street, one way or the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from resq_core.world.canvas import Canvas, Colour
from resq_core.world.figure import Part, paint_parts
from resq_core.world.plan import Cls

__all__ = ["Bicyclist", "paint_bicyclist"]

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Bicyclist:
    """x, z: metres. ahead: 1 along the street, -1 against it. ridden: metres, for the pedals."""

    x: float
    z: float
    ahead: int
    ridden: float
    instance: int
    jacket: Colour


def paint_bicyclist(canvas: Canvas, b: Bicyclist) -> None:
    """Paint a bicycle and who rides it."""

    def point(u: float, y: float, w: float = 0.0) -> tuple[float, float, float]:
        return b.x + w, y, b.z + b.ahead * u

    dark: Colour = (38, 38, 42)
    parts: list[Part] = []
    for hub in (-0.52, 0.54):
        rim = [
            point(hub + 0.33 * math.cos(a), 0.34 + 0.33 * math.sin(a))
            for a in np.linspace(0, 2 * math.pi, 15)
        ]
        parts += [Part(p, q, (0.045, 0.045), dark) for p, q in pairwise(rim)]
    crank, saddle, head = point(0.0, 0.3), point(-0.2, 0.95), point(0.42, 0.85)
    rear, fork = point(-0.52, 0.34), point(0.54, 0.34)
    for p, q in (
        (crank, saddle),
        (crank, head),
        (saddle, head),
        (rear, crank),
        (rear, saddle),
        (head, fork),
    ):
        parts.append(Part(p, q, (0.05, 0.05), (150, 52, 46)))
    turn = b.ridden / 0.9
    jeans: Colour = (48, 54, 74)
    for side, phase in ((0.1, turn), (-0.1, turn + math.pi)):
        foot = (0.17 * math.cos(phase), 0.3 + 0.17 * math.sin(phase))
        knee = _knee((-0.16, 0.98), foot)
        parts += [
            Part(point(-0.16, 0.98, side), point(*knee, side), (0.17, 0.13), jeans),
            Part(point(*knee, side), point(*foot, side), (0.12, 0.09), jeans),
            Part(
                point(*foot, side), point(foot[0] + 0.13, foot[1] - 0.02, side), (0.08, 0.07), dark
            ),
            Part(point(0.2, 1.4, 2 * side), point(0.4, 1.05, 2.2 * side), (0.11, 0.08), b.jacket),
        ]
    paint_parts(canvas, parts, Cls.BICYCLIST, b.instance)
    paint_parts(canvas, _rider(b, point), Cls.BICYCLIST, b.instance)


def _rider(b: Bicyclist, point: Callable[[float, float, float], Point]) -> list[Part]:
    """Back, neck, head and helmet."""
    skin: Colour = (206, 166, 138)
    skull, helmet = point(0.27, 1.63, 0.0), point(0.24, 1.7, 0.0)
    return [
        *(
            Part(point(-0.18, 0.98, w), point(0.2, 1.4, 1.4 * w), (0.2, 0.19), b.jacket)
            for w in (-0.08, 0.08)
        ),
        Part(point(0.2, 1.44, 0.0), skull, (0.1, 0.1), skin),
        Part(skull, skull, (0.19, 0.19), skin, 1.2),
        Part(helmet, helmet, (0.23, 0.23), (188, 190, 186), 0.75),
    ]


def _knee(hip: tuple[float, float], foot: tuple[float, float]) -> tuple[float, float]:
    """Where a knee between two bones of 0.45 m is; it points ahead."""
    dx, dy = foot[0] - hip[0], foot[1] - hip[1]
    reach = min(math.hypot(dx, dy), 0.899)
    bow = math.sqrt(0.45**2 - (reach / 2) ** 2)
    length = math.hypot(dx, dy)
    return hip[0] + dx / 2 - dy / length * bow, hip[1] + dy / 2 + dx / length * bow
