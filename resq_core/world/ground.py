"""Road, pavements, markings and the park behind its fence."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from resq_core.world.camera import Camera
from resq_core.world.canvas import Canvas, Colour
from resq_core.world.plan import FACADE, KERB, KERB_HEIGHT, Cls
from resq_core.world.ring import BEHIND
from resq_core.world.textures import Grain, rays

__all__ = ["CROSSING", "grained", "paint_ground"]

CROSSING = 13.0
"""Where the zebra crossing of a street with a static camera is, metres ahead of z = 0."""

_ROAD: Colour = (96, 97, 102)
_PATH: Colour = (150, 144, 138)
_KERB: Colour = (176, 173, 168)
_WHITE: Colour = (214, 214, 210)
_YELLOW: Colour = (190, 164, 84)
_LAWN: Colour = (108, 118, 70)
_FAR = 400.0
_DASH, _GAP = 2.2, 3.8


def paint_ground(canvas: Canvas, crossing: bool) -> None:
    """Paint everything flat, and the kerbs."""
    z0 = canvas.camera.z - BEHIND
    z1 = z0 + _FAR
    for side in (-1, 1):
        kerb, wall = side * KERB, side * (FACADE + 30)
        _flat(canvas, kerb, wall, z0, z1, _PATH, Cls.PAVEMENT, KERB_HEIGHT)
    _flat(canvas, -KERB, KERB, z0, z1, _ROAD, Cls.ROAD)
    for side in (-1, 1):
        x = side * KERB
        face = [(x, 0, z0), (x, KERB_HEIGHT, z0), (x, KERB_HEIGHT, z1), (x, 0, z1)]
        canvas.surface(face, (128, 126, 124), Cls.PAVEMENT)
        _flat(canvas, x, x + side * 0.16, z0, z1, _KERB, Cls.PAVEMENT, KERB_HEIGHT)
        for gap in (0.22, 0.42):
            _flat(canvas, x - side * gap, x - side * (gap + 0.09), z0, z1, _YELLOW, Cls.ROAD)
    pitch = _DASH + _GAP
    first = np.floor(z0 / pitch) * pitch
    for start in np.arange(first, first + 130, pitch):
        _flat(canvas, -0.06, 0.06, start, start + _DASH, _WHITE, Cls.ROAD)
    if crossing:
        for x in np.arange(-KERB + 0.5, KERB - 0.8, 1.15):
            _flat(canvas, x, x + 0.6, CROSSING - 1.3, CROSSING + 1.3, _WHITE, Cls.ROAD)


def paint_park(canvas: Canvas, start: float, end: float) -> None:
    """A lawn behind the left pavement."""
    _flat(canvas, -FACADE, -FACADE - 30, start, end, _LAWN, Cls.TREE, KERB_HEIGHT)


def _flat(
    canvas: Canvas,
    x0: float,
    x1: float,
    z0: float,
    z1: float,
    colour: Colour,
    cls: Cls,
    y: float = 0.0,
) -> None:
    """A level rectangle, in pieces so that haze follows the distance."""
    edges = [z0]
    while edges[-1] < z1:
        ahead = max(edges[-1] - canvas.camera.z, 0.0)
        edges.append(min(z1, edges[-1] + 6.0 + 0.5 * ahead))
    for near, far in pairwise(edges):
        canvas.surface([(x0, y, near), (x1, y, near), (x1, y, far), (x0, y, far)], colour, cls)


def grained(
    colours: NDArray[np.float32],
    classes: NDArray[np.uint8],
    still: NDArray[np.bool_],
    camera: Camera,
    grain: Grain,
) -> None:
    """Give ground and walls their grain, in place.

    Args:
        colours: float32 [H, W, 3], 0 to 255.
        classes: class ids, uint8 [H, W].
        still: where nothing that moves or stands in front is seen, bool [H, W].
        camera, grain: of the street.
    """
    right, up, forward = rays(camera)
    flat = still & ((classes == Cls.ROAD) | (classes == Cls.PAVEMENT)) & (up < -1e-3)
    t = camera.y / -up[flat]
    x, z = camera.x + right[flat] * t, camera.z + forward[flat] * t
    fade = np.exp(-t / 25.0)
    stain = grain.soft(x / 23.0, z / 31.0)
    speck = grain.fine(x, z) + 0.8 * grain.fine(x * 3.7, z * 3.7)
    paved = (classes[flat] == Cls.PAVEMENT) & ((np.abs(z / 0.9 % 1.0) < 0.06) & (t < 22))
    colours[flat] *= (1 + fade * 0.05 * speck + 0.035 * stain - 0.12 * fade * paved)[:, None]
    wall = still & (classes == Cls.BUILDING) & (np.abs(right) > 1e-3)
    side = np.where(right[wall] > 0, FACADE, -FACADE)
    t = np.abs((side - camera.x) / right[wall])
    y, z = camera.y + up[wall] * t, camera.z + forward[wall] * t
    bricks = grain.fine(z * 2.0, y * 5.0) * np.exp(-t / 30.0)
    weather = grain.soft(z / 19.0, y / 13.0)
    colours[wall] *= (1 + 0.05 * bricks + 0.05 * weather)[:, None]
