"""What stands on the pavements: trees, lamp posts, signs, fences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resq_core.world.buildings import PARK, WIDTH
from resq_core.world.canvas import Canvas, Colour, mix
from resq_core.world.plan import FACADE, KERB, Cls
from resq_core.world.ring import LENGTH, place, randomness

__all__ = ["Prop", "paint_fence", "paint_prop", "park_span", "park_trees", "props"]

_TREES = 5
_LAMPS = 4
_SIGNS = 3
_SPECKS = 70
_TOO_NEAR = 5.5  # metres; a crown above the camera would fill the picture
_BARK: Colour = (78, 66, 56)
_LEAVES: tuple[Colour, ...] = ((62, 84, 44), (74, 92, 50), (88, 96, 52), (56, 78, 52))
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


def paint_prop(canvas: Canvas, prop: Prop) -> None:
    """Paint one thing."""
    scale = canvas.camera.scale(prop.x, prop.z)
    if scale == 0.0 or (prop.kind == "tree" and scale > canvas.camera.focal / _TOO_NEAR):
        return
    {"tree": _tree, "lamp": _lamp, "sign": _sign}[prop.kind](canvas, prop, scale)


def _at(canvas: Canvas, x: float, y: float, z: float) -> tuple[float, float]:
    pixel = canvas.camera.project(np.array([[x, y, z]]))[0]
    return float(pixel[0]), float(pixel[1])


def _tree(canvas: Canvas, prop: Prop, scale: float) -> None:
    rng = np.random.default_rng(prop.seed)
    height = rng.uniform(5.5, 8.0)
    leaf = _LEAVES[int(rng.integers(len(_LEAVES)))]
    bark = canvas.hazed(_BARK, prop.x, prop.z)
    foot, fork = _at(canvas, prop.x, 0, prop.z), _at(canvas, prop.x, height * 0.5, prop.z)
    canvas.limb(foot, fork, (0.34 * scale, 0.2 * scale), bark, Cls.TREE, 0)
    crown, radius = height * 0.68, height * 0.27
    for layer, (shade, size, shift) in enumerate(
        ((0.62, 0.5, 0.0), (0.85, 0.38, 0.12), (1.12, 0.24, 0.3))
    ):
        colour = mix((0, 0, 0), leaf, shade) if shade < 1 else mix(leaf, (226, 214, 130), 0.22)
        for _ in range(16 if layer < 2 else 12):
            angle, out = rng.uniform(0, 2 * np.pi), radius * np.sqrt(rng.uniform(0, 1))
            blob = radius * size * rng.uniform(0.8, 1.25)
            centre = _at(
                canvas,
                prop.x + out * np.cos(angle) - shift * 0.5,
                crown + 1.15 * out * np.sin(angle) + shift,
                prop.z,
            )
            tint = mix(colour, (40, 60, 30), float(rng.uniform(0, 0.25)))
            tint = canvas.hazed(tint, prop.x, prop.z)
            canvas.disc(centre, (blob * scale, 0.85 * blob * scale), tint, Cls.TREE)
    for _ in range(_SPECKS if scale > 12 else 0):
        angle, out = rng.uniform(0, 2 * np.pi), 1.25 * radius * np.sqrt(rng.uniform(0, 1))
        x, y = prop.x + out * np.cos(angle), crown + 1.1 * out * np.sin(angle)
        speck = mix(leaf, ((24, 34, 20), (166, 160, 92))[int(rng.random() < 0.4)], 0.6)
        size = rng.uniform(0.05, 0.14) * scale
        colour = canvas.hazed(speck, prop.x, prop.z)
        canvas.disc(_at(canvas, x, y, prop.z), (size, 0.7 * size), colour, Cls.TREE)


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
    for size, plate in ((0.36, rim), (0.25, face)):
        radius = size * scale
        canvas.disc(centre, (radius, radius), canvas.hazed(plate, prop.x, prop.z), Cls.SIGN)


def paint_fence(canvas: Canvas, start: float, end: float) -> None:
    """Railings along the park, from `start` to `end` metres along the street."""
    x = -FACADE + 0.1
    for low, high in ((0.12, 0.45),):
        wall = [(x, low, start), (x, low, end), (x, high, end), (x, high, start)]
        canvas.surface(wall, (118, 104, 94), Cls.FENCE)
    for z in np.arange(start, end, 0.55):
        for y0, y1, half in ((0.4, 1.35, 0.04),):
            bar = [(x, y0, z - half), (x, y0, z + half), (x, y1, z + half), (x, y1, z - half)]
            canvas.surface(bar, _RAIL, Cls.FENCE)
    for y in (0.55, 1.2):
        rail = [(x, y, start), (x, y, end), (x, y + 0.07, end), (x, y + 0.07, start)]
        canvas.surface(rail, _RAIL, Cls.FENCE)
