"""What stands on the pavements: trees, lamp posts, signs, fences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resq_core.world.canvas import Canvas, Colour, mix
from resq_core.world.foliage import CROWNS, crown
from resq_core.world.houses import PARK, WIDTH
from resq_core.world.plan import FACADE, KERB, Cls
from resq_core.world.ring import LENGTH, place, randomness

__all__ = ["Prop", "paint_fence", "paint_prop", "park_span", "park_trees", "props"]

_TREES = 5
_LAMPS = 4
_SIGNS = 3
_TOO_NEAR = 5.5  # metres; a crown above the camera would fill the picture
_BARK: Colour = (78, 66, 56)
_POST: Colour = (88, 94, 98)
_RAIL: Colour = (46, 50, 52)


@dataclass(frozen=True, slots=True)
class Prop:
    """One thing: `kind` is tree, lamp or sign; x and z in metres; seed of its details."""

    kind: str
    x: float
    z: float
    seed: int


def park_span(camera_z: float) -> tuple[float, float]:
    """Where the park on the left begins and ends, metres along the street."""
    at = place(PARK * WIDTH, 0.0, 0.0, camera_z + WIDTH)
    return at.z, at.z + WIDTH


def props(seed: int, camera_z: float) -> list[Prop]:
    """Everything on the ring."""
    found = []
    for kind, count, inset in (
        ("tree", _TREES, 0.9),
        ("lamp", _LAMPS, 0.4),
        ("sign", _SIGNS, 0.45),
    ):
        for slot in range(2 * count):
            side = 1 if slot % 2 else -1
            shift = {"tree": 5.0, "lamp": 12.0, "sign": 20.0}[kind] + (4.0 if side == 1 else 0.0)
            at = place(slot // 2 * LENGTH / count + shift, 0.0, 0.0, camera_z)
            rng = randomness(seed, kind, slot, at.lap)
            if kind == "tree" and rng.random() < 0.35:
                continue
            found.append(Prop(kind, side * (KERB + inset), at.z, int(rng.integers(1 << 30))))
    return found


def park_trees(seed: int, camera_z: float) -> list[Prop]:
    """Trees behind the fence of the park."""
    start, end = park_span(camera_z)
    places = enumerate(np.linspace(start + 1.5, end - 1.5, 5))
    return [Prop("tree", -FACADE - 2.5 - 2.2 * (i % 3), float(z), seed + i) for i, z in places]


def paint_prop(canvas: Canvas, prop: Prop, seconds: float) -> None:
    """Paint one thing; `seconds` is for trees, which the wind moves."""
    scale = canvas.camera.scale(prop.x, prop.z)
    if scale == 0.0 or (prop.kind == "tree" and scale > canvas.camera.focal / _TOO_NEAR):
        return
    if prop.kind == "tree":
        _tree(canvas, prop, scale, seconds)
    else:
        {"lamp": _lamp, "sign": _sign}[prop.kind](canvas, prop, scale)


def _at(canvas: Canvas, x: float, y: float, z: float) -> tuple[float, float]:
    pixel = canvas.camera.project(np.array([[x, y, z]]))[0]
    return float(pixel[0]), float(pixel[1])


def _tree(canvas: Canvas, prop: Prop, scale: float, seconds: float) -> None:
    rng = np.random.default_rng(prop.seed)
    height, variant = rng.uniform(6.0, 8.8), int(rng.integers(CROWNS))
    bark = canvas.hazed(_BARK, prop.x, prop.z)
    foot, fork = _at(canvas, prop.x, 0, prop.z), _at(canvas, prop.x, height * 0.5, prop.z)
    canvas.limb(foot, fork, (0.36 * scale, 0.22 * scale), bark, Cls.TREE, 0)
    pale = canvas.hazed(mix(_BARK, (255, 240, 210), 0.3), prop.x, prop.z)
    lit = 0.1 * scale
    ends = ((foot[0] + lit, foot[1]), (fork[0] + lit * 0.6, fork[1]))
    canvas.limb(*ends, (0.09 * scale, 0.05 * scale), pale, Cls.TREE, 0)
    left, top = _at(canvas, prop.x, height, prop.z)
    half, low = height * rng.uniform(0.3, 0.36) * scale, top + height * 0.68 * scale
    lean = 0.022 * np.sin(1.7 * seconds + prop.seed % 97) + 0.01 * np.sin(3.9 * seconds + prop.x)
    depth = canvas.camera.depth(prop.x, prop.z)
    levels = crown(variant).levels
    canvas.sprite(levels, (left - half, top, left + half, low), float(lean), depth, Cls.TREE)


def _lamp(canvas: Canvas, prop: Prop, scale: float) -> None:
    colour = canvas.hazed(_POST, prop.x, prop.z)
    foot, top = _at(canvas, prop.x, 0, prop.z), _at(canvas, prop.x, 6.2, prop.z)
    canvas.limb(foot, top, (0.18 * scale, 0.1 * scale), colour, Cls.POLE, 0)
    reach = -1.3 if prop.x > 0 else 1.3
    arm = _at(canvas, prop.x + reach, 6.5, prop.z)
    canvas.limb(top, arm, (0.1 * scale, 0.08 * scale), colour, Cls.POLE, 0)
    head = _at(canvas, prop.x + reach * 1.15, 6.45, prop.z)
    pale = canvas.hazed((226, 224, 206), prop.x, prop.z)
    canvas.limb(arm, head, (0.2 * scale, 0.16 * scale), pale, Cls.POLE, 0)


def _sign(canvas: Canvas, prop: Prop, scale: float) -> None:
    rng = np.random.default_rng(prop.seed)
    colour = canvas.hazed(_POST, prop.x, prop.z)
    foot, top = _at(canvas, prop.x, 0, prop.z), _at(canvas, prop.x, 2.6, prop.z)
    canvas.limb(foot, top, (0.09 * scale, 0.09 * scale), colour, Cls.POLE, 0)
    plates = (((34, 70, 150), (236, 238, 242)), ((190, 42, 40), (240, 238, 232)))
    rim, face = plates[int(rng.integers(2))]
    centre = _at(canvas, prop.x, 2.75, prop.z)
    for size, plate in ((0.42, rim), (0.3, face)):
        radius = size * scale
        canvas.disc(centre, (radius, radius), canvas.hazed(plate, prop.x, prop.z), Cls.SIGN)


def paint_fence(canvas: Canvas, start: float, end: float) -> None:
    """Railings on a low wall along the park, from `start` to `end` metres along the street."""
    x = -FACADE + 0.1

    def upright(y0: float, y1: float, z0: float, z1: float, colour: Colour, opacity: int) -> None:
        corners = [(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)]
        canvas.surface(corners, colour, Cls.FENCE, 0, opacity)

    step = (end - start) / 4
    for z in np.arange(4) * step + start:
        upright(0.5, 1.5, z, z + step, _RAIL, 120)  # bars too thin to be drawn one by one
    for z in np.arange(start, end, 0.28):
        if canvas.camera.scale(x, z) > 12:
            upright(0.5, 1.5, z, z + 0.07, _RAIL, 255)
    for z in np.arange(4) * step + start:
        upright(0.1, 0.55, z, z + step, (146, 112, 92), 255)
        upright(0.5, 0.6, z, z + step, (176, 168, 156), 255)
        upright(1.36, 1.44, z, z + step, _RAIL, 255)
