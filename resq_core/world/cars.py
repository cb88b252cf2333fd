"""Cars. They point along the street, one way or the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from resq_core.world.canvas import Canvas, Colour, mix
from resq_core.world.plan import Cls

__all__ = ["Car", "paint_car"]

_BODIES: tuple[Colour, ...] = (
    (52, 62, 84), (146, 34, 36), (182, 184, 188), (38, 42, 46), (78, 108, 146), (220, 220, 216),
    (58, 82, 72), (110, 114, 120), (168, 136, 82),
)  # fmt: skip
# outlines seen from the side: metres ahead of the middle, metres up; from tail to nose
_BODY = (
    (-2.02, 0.24), (-2.1, 0.5), (-2.06, 0.86), (-1.92, 0.97), (0.95, 0.97), (1.75, 0.83),
    (2.04, 0.66), (2.1, 0.44), (2.02, 0.24),
)  # fmt: skip
_CABIN = ((-1.96, 0.95), (-1.56, 1.4), (-1.15, 1.5), (0.02, 1.5), (0.3, 1.44), (1.08, 0.95))
_PANES = (
    ((-1.66, 1.03), (-1.4, 1.37), (-0.72, 1.42), (-0.72, 1.0)),
    ((-0.62, 1.0), (-0.62, 1.42), (0.12, 1.41), (0.28, 1.38), (0.82, 1.0)),
)
_BELT, _ROOF = 0.95, 1.5
_HALF, _TOP = 0.87, 0.6  # half widths of body and roof
_WHEELS, _WHEEL = (-1.3, 1.3), 0.32
_SUN = (0.52, 0.83, -0.19)  # where its light comes from: right, up, along the street
_GLASS: Colour = (46, 56, 66)
_SKY: Colour = (196, 210, 222)
_DARK: Colour = (30, 31, 34)


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


class _Brush:
    """Paints one car in its own metres: u ahead of its middle, y up, w to the world's right."""

    def __init__(self, canvas: Canvas, car: Car) -> None:
        self.canvas, self.car = canvas, car
        camera = canvas.camera
        self.eye = ((camera.z - car.z) * car.ahead, camera.y)
        self.side = 1 if camera.x > car.x else -1
        self.beside = abs(camera.x - car.x) > _HALF
        self.fine = camera.scale(car.x, car.z) > 9

    def flat(self, corners: Sequence[tuple[float, float, float]], colour: Colour) -> None:
        """A polygon of corners (u, y, w)."""
        c = self.car
        points = [(c.x + w, y, c.z + c.ahead * u) for u, y, w in corners]
        self.canvas.surface(points, colour, Cls.CAR, c.instance)

    def side_view(
        self, outline: Sequence[tuple[float, float]], colour: Colour, out: float = 0.0
    ) -> None:
        """An outline (u, y) on the side that the camera sees, `out` metres further out."""
        self.flat([(u, y, self.side * (_half(y) + out)) for u, y in outline], colour)

    def across(
        self, low: tuple[float, float], high: tuple[float, float], inset: float, colour: Colour
    ) -> None:
        """A strip from side to side between two places of the outline."""
        (u, y), (v, t) = low, high
        a, b = _half(y) - inset, _half(t) - inset
        self.flat([(u, y, -a), (u, y, a), (v, t, b), (v, t, -b)], colour)

    def sees(self, p: tuple[float, float], q: tuple[float, float]) -> bool:
        """Whether the strip between two outline places faces the camera."""
        nu, ny = p[1] - q[1], q[0] - p[0]
        return (self.eye[0] - p[0]) * nu + (self.eye[1] - p[1]) * ny > 0

    def lit(self, nu: float, ny: float, nw: float) -> Colour:
        """The body's colour on a face with that normal; bright skies shine in level faces."""
        length = math.sqrt(nu * nu + ny * ny + nw * nw)
        sun = (nw * _SUN[0] + ny * _SUN[1] + nu * self.car.ahead * _SUN[2]) / length
        colour = mix(self.car.body, (12, 14, 20), 0.42 - 0.42 * max(sun, 0.0))
        return mix(colour, _SKY, 0.26 * max(ny / length, 0.0) ** 2)


def _half(y: float) -> float:
    """Half the width at a height."""
    if y <= _BELT + 0.03:
        return _HALF
    return _HALF - 0.03 + (_TOP - _HALF + 0.03) * (y - _BELT) / (_ROOF - _BELT)


def paint_car(canvas: Canvas, car: Car) -> None:
    """Paint a car, or what of it is in front of the camera."""
    if canvas.camera.depth(car.x, car.z) < -2.0:
        return
    brush = _Brush(canvas, car)
    for u in (-1.95, 1.95):
        brush.flat([(u, 0.1, -0.8), (u, 0.1, 0.8), (u, 0.3, 0.8), (u, 0.3, -0.8)], _DARK)
    for w in (-0.8, 0.8):
        brush.flat([(-1.95, 0.1, w), (1.95, 0.1, w), (1.95, 0.3, w), (-1.95, 0.3, w)], _DARK)
    _wheels(brush, far=True)
    _hull(brush, _BODY)
    _ends(brush)
    if brush.beside:
        _flank(brush)
    _hull(brush, _CABIN)
    _glazing(brush)


def _hull(brush: _Brush, outline: tuple[tuple[float, float], ...]) -> None:
    """The faces that the camera sees of a body with this outline; it must be convex."""
    for p, q in pairwise(outline):
        if brush.sees(p, q):
            brush.across(p, q, 0.0, brush.lit(p[1] - q[1], q[0] - p[0], 0.0))
    if brush.beside:
        brush.side_view(outline, brush.lit(0.0, 0.25, brush.side))


def _flank(brush: _Brush) -> None:
    lit = brush.lit(0.0, 0.25, brush.side)
    sill = ((-2.02, 0.24), (-2.05, 0.36), (2.06, 0.36), (2.02, 0.24))
    brush.side_view(sill, mix(lit, (0, 0, 0), 0.5))
    if brush.fine:
        brush.side_view(
            ((-2.06, 0.72), (-2.06, 0.77), (1.9, 0.72), (1.9, 0.69)), mix(lit, _SKY, 0.22)
        )
        for u in (-0.67, 0.75):
            seam = ((u, 0.36), (u, 0.95), (u + 0.03, 0.95), (u + 0.03, 0.36))
            brush.side_view(seam, mix(lit, (0, 0, 0), 0.4))
    _wheels(brush, far=False)


def _wheels(brush: _Brush, far: bool) -> None:
    side = -brush.side if far else brush.side
    rings = ((0.4, 0.008), (_WHEEL, 0.012), (0.2, 0.016), (0.06, 0.02))
    colours: tuple[Colour, ...] = ((22, 22, 24), (36, 36, 38), (158, 160, 164), (70, 72, 76))
    for u in _WHEELS:
        for (radius, out), colour in zip(rings, colours, strict=True):
            angles = np.linspace(0, 2 * math.pi, 16, endpoint=False).tolist()
            ring = [
                (
                    u + radius * math.cos(a),
                    max(_WHEEL + radius * math.sin(a), 0.0),
                    side * (_HALF + out),
                )
                for a in angles
            ]
            brush.flat(ring, colour)


def _ends(brush: _Brush) -> None:
    """Bumper, lights and plate of the end that the camera sees."""
    rear = brush.eye[0] < -2.0
    if not rear and brush.eye[0] < 2.0:
        return
    s = -1 if rear else 1
    face = s * 2.11
    brush.across((s * 2.03, 0.24), (s * 2.1, 0.44), 0.0, mix(brush.car.body, (20, 20, 22), 0.72))
    low, high = (0.62, 0.84) if rear else (0.54, 0.68)
    light: Colour = (178, 30, 26) if rear else (238, 236, 218)
    for w in (-0.66, 0.66):
        half = 0.13 if rear else 0.17
        corners = [(face, low, w - half), (face, low, w + half), (face - s * 0.04, high, w + half)]
        brush.flat([*corners, (face - s * 0.04, high, w - half)], light)
    if not rear:
        grille = [(face, 0.5, -0.42), (face, 0.5, 0.42), (face, 0.64, 0.4), (face, 0.64, -0.4)]
        brush.flat(grille, (34, 36, 40))
    y = 0.62 if rear else 0.36
    plate: Colour = (226, 196, 74) if rear else (232, 232, 228)
    corners = [(face, y, -0.26), (face, y, 0.26), (face, y + 0.12, 0.26), (face, y + 0.12, -0.26)]
    brush.flat(corners, plate)


def _glazing(brush: _Brush) -> None:
    for low, high, share in (((-1.92, 1.0), (-1.58, 1.38), 0.2), ((1.0, 1.0), (0.34, 1.42), 0.3)):
        p, q = (low, high) if low[0] < 0 else (high, low)
        if not brush.sees(p, q):
            continue
        brush.across(low, high, 0.09, _GLASS)
        middle = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2)
        brush.across(middle, high, 0.1, mix(_GLASS, _SKY, share))
    if not brush.beside:
        return
    for pane in _PANES:
        brush.side_view(pane, mix(_GLASS, _SKY, 0.12 if brush.side == 1 else 0.04), 0.004)
    if brush.fine:
        shine = ((-0.5, 1.02), (-0.3, 1.4), (-0.08, 1.4), (-0.28, 1.02))
        brush.side_view(shine, mix(_GLASS, _SKY, 0.34), 0.006)
