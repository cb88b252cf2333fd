"""People of the street in front of any picture, in any posture, or cut out: training data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resq_core.world.camera import Camera
from resq_core.world.canvas import Canvas, Colour
from resq_core.world.people import Posture, Walker, joints_of, paint_walker, visible_joints
from resq_core.world.plan import Cls

__all__ = ["Portrait", "cut_out", "portrait"]

_SOMEBODY, _OTHERS = 1, 2  # instances: whom it is of, and the first of the others
_UPRIGHT = 1.73  # metres, of the height that sizes are meant for


@dataclass(frozen=True, slots=True)
class Portrait:
    """A picture of somebody, perhaps with others and things before or behind.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        joints: float32 [15, 2], column and row in pixels, in the order of `JOINTS`; may lie
            outside the picture.
        visible: bool [15]: inside the picture, and nothing nearer in front of it.
    """

    image: NDArray[np.uint8]
    joints: NDArray[np.float32]
    visible: NDArray[np.bool_]


def portrait(background: NDArray[np.uint8], size: int, rng: np.random.Generator) -> Portrait:
    """Somebody in front of a part of a picture.

    Args:
        background: uint8 [H, W, 3] RGB, of anything.
        size: side of the square picture to make, pixels.
        rng: of everything else.
    """
    tall = float(rng.uniform(0.45, 0.9))  # of somebody upright, in sides of the picture
    camera = _looking_at_somebody(size, tall, rng)
    canvas = Canvas(camera)
    canvas.fill(_part(background, rng))
    somebody = _dressed(rng, _SOMEBODY, camera, 1.0)
    others = [
        _dressed(rng, _OTHERS + i, camera, float(rng.uniform(0.75, 2.5)))
        for i in range(int(rng.choice(3, p=(0.5, 0.3, 0.2))))
    ]
    for walker in sorted([somebody, *others], key=lambda w: -w.z):
        paint_walker(canvas, walker)
    if rng.random() < 0.25:
        _hide_a_part(canvas, size, rng)
    joints = camera.project(joints_of(somebody)).astype(np.float32)
    visible = visible_joints(joints, canvas.instances() == _SOMEBODY)
    colours = _lit(canvas.colours(), canvas.instances() > 0, _part(background, rng), rng)
    colours += rng.standard_normal(colours.shape, np.float32) * np.float32(rng.uniform(0, 6))
    image = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
    return Portrait(image, joints, visible)


def cut_out(picture: NDArray[np.uint8], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Somebody with nothing behind them.

    Args:
        picture: uint8 [H, W, 3] RGB, whose light and dark is in their cloth.
        size: side of the square to paint on, pixels.
        rng: of everything else.

    Returns:
        uint8 [size, size, 4] RGBA, alpha 0 or 255.
    """
    canvas = Canvas(_looking_at_somebody(size, float(rng.uniform(0.7, 0.9)), rng))
    paint_walker(canvas, _dressed(rng, _SOMEBODY, canvas.camera, 1.0))
    shown = canvas.instances() == _SOMEBODY
    colours = np.clip(_lit(canvas.colours(), shown, _part(picture, rng), rng), 0, 255)
    return np.dstack((colours, shown * np.float32(255))).astype(np.uint8)


def _looking_at_somebody(size: int, tall: float, rng: np.random.Generator) -> Camera:
    """A camera before which somebody of the usual height is so tall, and in the middle."""
    y = float(rng.uniform(0.5, 2.2))
    level = Camera(0.0, y, 0.0, 0.0, 0.0, (size, size))
    depth = level.focal * _UPRIGHT / (tall * size)
    row = size * float(rng.uniform(0.42, 0.58))  # of their belly
    pitch = math.atan((level.horizon - row - level.focal * (1.0 - y) / depth) / level.focal)
    return replace(level, z=-depth, pitch=pitch)


def _dressed(rng: np.random.Generator, instance: int, camera: Camera, further: float) -> Walker:
    """Somebody at the street's start, or so many times as far from the camera."""
    depth = -camera.z * further
    aside = 0.06 if instance == _SOMEBODY else 0.3  # of what the camera sees there
    x = float(rng.normal(0, aside)) * depth * camera.size[1] / camera.focal
    heading = float(rng.uniform(-math.pi, math.pi))
    walker = Walker.dressed(rng, instance, x, camera.z + depth, heading, 0.0)
    colours = rng.integers(0, 256, (2, 3))
    coat, trousers = (_colour(row) for row in colours)
    return replace(
        walker,
        coat=coat if rng.random() < 0.6 else walker.coat,
        trousers=trousers if rng.random() < 0.4 else walker.trousers,
        posture=Posture.drawn(rng) if rng.random() < 0.75 else None,
        walked=float(rng.uniform(0, 10)),
    )


def _colour(levels: NDArray[np.int64]) -> Colour:
    red, green, blue = (int(level) for level in levels)
    return red, green, blue


def _part(background: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square of a picture, from a third of its shorter side to all of it, mirrored or not."""
    height, width = background.shape[:2]
    side = max(int(min(height, width) * rng.uniform(0.33, 1.0)), 1)
    top, left = (int(rng.integers(0, most - side + 1)) for most in (height, width))
    found = background[top : top + side, left : left + side]
    return np.ascontiguousarray(found[:, ::-1] if rng.random() < 0.5 else found)


def _lit(
    colours: NDArray[np.float32],
    people: NDArray[np.bool_],
    cloth: NDArray[np.uint8],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """People under light from one side, in cloth with the pattern of a picture."""
    size = len(people)
    angle = rng.uniform(0, 2 * math.pi)
    along = np.linspace(-1, 1, size, dtype=np.float32)
    light = math.cos(angle) * along + math.sin(angle) * along[:, None]
    grey = Image.fromarray(cloth).convert("L").resize((size, size), Image.Resampling.BILINEAR)
    pattern = np.asarray(grey, np.float32)
    pattern = (pattern - pattern.mean()) / max(float(pattern.std()), 1.0)
    strength = rng.uniform(0, 0.35, 2).astype(np.float32)
    factor = np.float32(rng.uniform(0.4, 1.15)) * (1 + strength[0] * light + strength[1] * pattern)
    return np.where(people[..., None], colours * np.maximum(factor, 0)[..., None], colours)


def _hide_a_part(canvas: Canvas, size: int, rng: np.random.Generator) -> None:
    """Something flat in front of everybody."""
    x, y = rng.uniform(0, size, 2)
    width, height = rng.uniform(0.08, 0.4, 2) * size
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    canvas.shape(corners, _colour(rng.integers(0, 256, 3)), Cls.BUILDING)
