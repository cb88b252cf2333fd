"""Road, pavements, markings and the park behind its fence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resq_core.world.camera import Camera
from resq_core.world.canvas import HAZE, HAZE_METRES, Canvas, Colour
from resq_core.world.plan import FACADE, KERB, KERB_HEIGHT, Cls
from resq_core.world.ring import BEHIND, LENGTH
from resq_core.world.textures import Grain, rays

__all__ = ["CROSSING", "grained", "paint_ground"]

CROSSING = 13.0
"""Where the first zebra crossing is, metres; the next follow every `LENGTH`."""

_ROAD: Colour = (96, 97, 102)
_PATH: Colour = (150, 144, 138)
_KERB: Colour = (176, 173, 168)
_WHITE: Colour = (214, 214, 210)
_YELLOW: Colour = (190, 164, 84)
_LAWN: Colour = (108, 118, 70)
_FAR = 400.0
_DASH, _GAP = 2.2, 3.8


def paint_ground(canvas: Canvas) -> None:
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
        canvas.shape(canvas.camera.polygon(face), (128, 126, 124), Cls.PAVEMENT)
        _flat(canvas, x, x + side * 0.16, z0, z1, _KERB, Cls.PAVEMENT, KERB_HEIGHT)
        for gap in (0.22, 0.42):
            _flat(canvas, x - side * gap, x - side * (gap + 0.09), z0, z1, _YELLOW, Cls.ROAD)
    pitch = _DASH + _GAP
    first = np.floor(z0 / pitch) * pitch
    for start in np.arange(first, first + 130, pitch):
        if (start - CROSSING + 5) % LENGTH > 8:  # none near a crossing
            _flat(canvas, -0.06, 0.06, start, start + _DASH, _WHITE, Cls.ROAD)
    lap = np.floor((z0 - CROSSING) / LENGTH)
    for middle in (CROSSING + LENGTH * (lap + 1), CROSSING + LENGTH * (lap + 2)):
        for x in np.arange(-KERB + 0.5, KERB - 0.8, 1.15):
            _flat(canvas, x, x + 0.6, middle - 1.3, middle + 1.3, _WHITE, Cls.ROAD)


def paint_park(canvas: Canvas, start: float, end: float) -> None:
    """A lawn behind the left pavement."""
    x0, x1, y = -FACADE, -FACADE - 30, KERB_HEIGHT
    corners = [(x0, y, start), (x1, y, start), (x1, y, end), (x0, y, end)]
    canvas.surface(corners, _LAWN, Cls.TREE)


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
    """A level rectangle without haze, which `grained` adds by the pixel."""
    corners = [(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)]
    canvas.shape(canvas.camera.polygon(corners), colour, cls)


def grained(
    colours: NDArray[np.float32],
    classes: NDArray[np.uint8],
    still: NDArray[np.bool_],
    camera: Camera,
    grain: Grain,
) -> None:
    """Give the ground its grain and its haze, in place.

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
    paved = classes[flat] == Cls.PAVEMENT
    light = 0.035 * grain.soft(x / 23.0, z / 31.0)
    light += fade * (0.045 * grain.fine(x, z) + 0.04 * grain.fine(x * 3.7, z * 3.7))
    light += np.where(paved, _joints(x, z) * np.exp(-t / 9.0), _worn(x))
    clear = np.exp(-t / HAZE_METRES)[:, None]
    haze = np.array(HAZE, np.float32)
    colours[flat] = colours[flat] * (1 + light)[:, None] * clear + haze * (1 - clear)


def _joints(x: NDArray[np.float32], z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dark joints between paving slabs, and slabs of slightly different colours."""
    row, across = np.floor(z / 0.62), np.abs(x) / 0.86
    across = across + 0.5 * (row % 2)
    joint = (z / 0.62 % 1.0 < 0.07) | (across % 1.0 < 0.05)
    tint = (row * 7.3 + np.floor(across) * 3.1) % 1.0 - 0.5
    found: NDArray[np.float32] = (0.09 * tint - 0.2 * joint).astype(np.float32)
    return found


def _worn(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Asphalt is darker where wheels run, and dusty along the kerbs."""
    lane = np.abs(np.abs(x) - 1.5)
    wheels = -0.05 * np.exp(-(((lane - 0.75) / 0.24) ** 2))
    dust = 0.05 * np.exp(-np.abs(KERB - np.abs(x)) / 0.35)
    return (wheels + dust).astype(np.float32)
