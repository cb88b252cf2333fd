"""Cars and bicyclists. All of them go along the street, one way or the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from resq_core.world.canvas import Canvas, Colour, mix
from resq_core.world.figure import Part, paint_parts
from resq_core.world.plan import Cls

__all__ = ["Bicyclist", "Car", "paint_bicyclist", "paint_car"]

_BODIES: tuple[Colour, ...] = (
    (52, 60, 78), (142, 36, 38), (188, 190, 192), (40, 44, 48), (96, 118, 146), (222, 222, 218),
    (70, 88, 74), (112, 116, 122),
)  # fmt: skip
_BODY = (
    (-2.08, 0.3),
    (-2.12, 0.82),
    (-1.95, 0.97),
    (1.25, 0.95),
    (1.98, 0.8),
    (2.1, 0.55),
    (2.06, 0.3),
)
_CABIN = ((-1.86, 0.96), (-1.42, 1.44), (0.3, 1.47), (1.12, 0.94))
_PANES = (
    ((-1.62, 1.02), (-1.32, 1.36), (-0.62, 1.39), (-0.62, 1.0)),
    ((-0.52, 1.0), (-0.52, 1.39), (0.24, 1.4), (0.86, 0.99)),
)
_GLASS: Colour = (44, 54, 64)
_TYRE: Colour = (26, 26, 28)
_HALF, _TOP = 0.86, 0.66  # half widths of body and roof
_WHEEL = 0.33


@dataclass(frozen=True, slots=True)
class Car:
    """x, z: its middle, metres. ahead: 1 if it points along the street, -1 if against it."""

    x: float
    z: float
    ahead: int
    instance: int
    body: Colour

    @classmethod
    def painted(
        cls, rng: np.random.Generator, instance: int, x: float, z: float, ahead: int
    ) -> Car:
        """A car whose colour comes from `rng`."""
        return cls(x, z, ahead, instance, _BODIES[int(rng.integers(len(_BODIES)))])


def paint_car(canvas: Canvas, car: Car) -> None:
    """Paint a car that is in front of the camera."""
    if canvas.camera.depth(car.x, car.z) < 2.6:
        return
    side = 1 if canvas.camera.x > car.x else -1

    def point(u: float, y: float, w: float) -> tuple[float, float, float]:
        return car.x + w, y, car.z + car.ahead * u

    def flat(outline: tuple[tuple[float, float], ...], half: float, colour: Colour) -> None:
        canvas.surface(
            [point(u, y, side * half) for u, y in outline], colour, Cls.CAR, car.instance
        )

    def across(
        low: tuple[float, float],
        high: tuple[float, float],
        halves: tuple[float, float],
        colour: Colour,
    ) -> None:
        corners = [
            point(*low, -halves[0]), point(*low, halves[0]), point(*high, halves[1]),
            point(*high, -halves[1]),
        ]  # fmt: skip
        canvas.surface(corners, colour, Cls.CAR, car.instance)

    lit = car.body if side == 1 else mix(car.body, (0, 0, 0), 0.22)
    across((-2.0, 0.97), (2.0, 0.8), (_HALF, _HALF), mix(car.body, (255, 255, 255), 0.12))
    flat(_BODY, _HALF, lit)
    flat(((-2.1, 0.3), (-2.1, 0.42), (2.1, 0.42), (2.06, 0.3)), _HALF, mix(lit, (0, 0, 0), 0.45))
    flat(_CABIN, (_HALF + _TOP) / 2, mix(lit, (0, 0, 0), 0.1))
    for pane in _PANES:
        flat(pane, (_HALF + _TOP) / 2, _GLASS)
    across((-1.42, 1.44), (0.3, 1.47), (_TOP, _TOP), mix(car.body, (255, 255, 255), 0.25))
    for u in (-1.28, 1.3):
        _wheel(canvas, car, u, side)
    _end(canvas, car, across, rear=car.ahead == 1)


def _wheel(canvas: Canvas, car: Car, u: float, side: int) -> None:
    for radius, colour in ((_WHEEL, _TYRE), (0.19, (150, 152, 156))):
        ring = [
            (
                car.x + side * (_HALF + 0.01),
                _WHEEL + radius * math.sin(a),
                car.z + car.ahead * u + radius * math.cos(a),
            )
            for a in np.linspace(0, 2 * math.pi, 18, endpoint=False)
        ]
        canvas.surface(ring, colour, Cls.CAR, car.instance)


def _end(canvas: Canvas, car: Car, across: object, rear: bool) -> None:
    """The end that faces the camera: window, panel, lights, plate."""
    assert callable(across)
    base, top, face = (-1.86, -1.42, -2.12) if rear else (1.12, 0.3, 2.08)
    panel = mix(car.body, (0, 0, 0), 0.3)
    across((base, 0.96), (top, 1.44), (_HALF - 0.04, _TOP), mix(car.body, (0, 0, 0), 0.2))
    across((base, 1.0), (top, 1.4), (_HALF - 0.14, _TOP - 0.08), _GLASS)
    across(
        (face, 0.3), (base if rear else face, 1.0 if rear else 0.82), (_HALF, _HALF - 0.03), panel
    )
    across((face, 0.3), (face, 0.46), (_HALF, _HALF), mix(panel, (0, 0, 0), 0.4))
    for half in (-1, 1):
        w = half * 0.66
        light: Colour = (176, 30, 28) if rear else (236, 232, 206)
        corners = [
            (car.x + w - 0.15, 0.62, car.z + car.ahead * face),
            (car.x + w + 0.15, 0.62, car.z + car.ahead * face),
            (car.x + w + 0.15, 0.78, car.z + car.ahead * face),
            (car.x + w - 0.15, 0.78, car.z + car.ahead * face),
        ]
        canvas.surface(corners, light, Cls.CAR, car.instance)
    across((face, 0.5), (face, 0.61), (0.26, 0.26), (214, 190, 84) if rear else (226, 226, 222))


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
    trunk = [
        Part(point(-0.18, 0.98, w), point(0.2, 1.4, 1.4 * w), (0.2, 0.19), b.jacket)
        for w in (-0.08, 0.08)
    ]
    skull = point(0.27, 1.63)
    trunk += [
        Part(point(0.2, 1.44), skull, (0.1, 0.1), (206, 166, 138)),
        Part(skull, skull, (0.19, 0.19), (206, 166, 138), 1.2),
        Part(point(0.24, 1.7), point(0.24, 1.7), (0.23, 0.23), (188, 190, 186), 0.75),
    ]
    paint_parts(canvas, trunk, Cls.BICYCLIST, b.instance)


def _knee(hip: tuple[float, float], foot: tuple[float, float]) -> tuple[float, float]:
    """Where a knee between two bones of 0.45 m is; it points ahead."""
    dx, dy = foot[0] - hip[0], foot[1] - hip[1]
    reach = min(math.hypot(dx, dy), 0.899)
    bow = math.sqrt(0.45**2 - (reach / 2) ** 2)
    length = math.hypot(dx, dy)
    return hip[0] + dx / 2 - dy / length * bow, hip[1] + dy / 2 + dx / length * bow
