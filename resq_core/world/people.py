"""People who walk: where their joints are at any time, and how they are painted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_core.world.canvas import Canvas, Colour, mix
from resq_core.world.figure import Part, paint_parts
from resq_core.world.plan import KERB, KERB_HEIGHT, Cls

__all__ = [
    "JOINTS",
    "LIMBS",
    "Posture",
    "Walker",
    "gait",
    "joints_of",
    "paint_walker",
    "visible_joints",
]

_Place = tuple[float, float, float]

JOINTS = (
    "neck", "belly", "face", "right_shoulder", "left_shoulder", "right_hip", "left_hip",
    "right_elbow", "left_elbow", "right_knee", "left_knee", "right_wrist", "left_wrist",
    "right_ankle", "left_ankle",
)  # fmt: skip
"""The 15 joints of JHMDB in its order; right and left are the person's own."""

LIMBS = (
    (0, 2), (0, 1), (0, 3), (0, 4), (3, 7), (7, 11), (4, 8), (8, 12), (1, 5), (1, 6), (5, 9),
    (9, 13), (6, 10), (10, 14),
)  # fmt: skip
"""Pairs of joints that a skeleton connects."""

_SWING = 0.42  # radians of a leg either way; gives the stride below on legs of 0.49 heights
_STRIDE = 0.8  # metres of a full cycle per metre of height
_COATS: tuple[Colour, ...] = (
    (38, 44, 60), (98, 38, 40), (46, 62, 52), (126, 98, 70), (30, 32, 38), (150, 144, 134),
    (56, 70, 96), (60, 46, 42), (44, 42, 48), (168, 126, 56),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = (
    (40, 46, 62),
    (34, 34, 38),
    (86, 80, 70),
    (58, 66, 84),
    (66, 56, 52),
)
_SKIN: tuple[Colour, ...] = ((228, 190, 164), (196, 150, 120), (142, 100, 76), (96, 66, 52))
_HAIR: tuple[Colour, ...] = (
    (46, 36, 30),
    (92, 66, 42),
    (28, 26, 28),
    (150, 118, 74),
    (128, 124, 120),
)


@dataclass(frozen=True, slots=True)
class Posture:
    """How somebody holds trunk and limbs: angles in radians, pairs are (right, left).

    thighs: forwards from straight down. knees: how far the shins are bent back. arms: the upper
    arms, forwards from straight down. elbows: how far the forearms are bent forwards. spread:
    arms away from the trunk, sidewards. lean: of the trunk, forwards. sway: of the hip to the
    right, in heights.
    """

    thighs: tuple[float, float]
    knees: tuple[float, float]
    arms: tuple[float, float]
    elbows: tuple[float, float]
    spread: tuple[float, float] = (0.0, 0.0)
    lean: float = 0.0
    sway: float = 0.0

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Posture:
        """One of many: standing, striding, crouching or seated, arms anywhere."""

        def pair(low: float, high: float) -> tuple[float, float]:
            right, left = rng.uniform(low, high, 2)
            return float(right), float(left)

        seated = rng.random() < 0.15
        thighs = pair(1.1, 1.6) if seated else pair(-0.5, 0.9)
        knees = pair(1.0, 1.7) if seated else pair(0.0, 0.9)
        wild = rng.random() < 0.5  # half keep their arms down
        return cls(
            thighs=thighs,
            knees=knees,
            arms=pair(-0.8, 2.9) if wild else pair(-0.5, 0.6),
            elbows=pair(0.0, 2.3) if wild else pair(0.0, 0.9),
            spread=pair(0.0, 1.4) if wild else pair(0.0, 0.25),
            lean=float(rng.normal(0.08, 0.2)),
            sway=float(rng.uniform(-0.02, 0.02)),
        )


@dataclass(frozen=True, slots=True)
class Walker:
    """One person at one moment.

    x, z: on the ground, metres. heading: radians from the street's direction to the right.
    walked: metres walked so far, for the gait. height: metres. The colours are of the clothes
    and the body; `coat_length` is how far the coat reaches below the hip, in heights. `posture`:
    instead of the gait.
    """

    x: float
    z: float
    heading: float
    walked: float
    instance: int
    height: float
    coat: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    coat_length: float
    posture: Posture | None = None

    @classmethod
    def dressed(
        cls,
        rng: np.random.Generator,
        instance: int,
        x: float,
        z: float,
        heading: float,
        walked: float,
    ) -> Walker:
        """Somebody whose looks come from `rng`."""

        def pick(colours: tuple[Colour, ...]) -> Colour:
            return colours[int(rng.integers(len(colours)))]

        height = float(rng.uniform(1.56, 1.9))
        looks = (pick(_COATS), pick(_TROUSERS), pick(_SKIN), pick(_HAIR))
        coat_length = float(rng.choice([0.02, 0.04, 0.16]))
        start = float(rng.uniform(0, 10))
        return cls(x, z, heading, walked + start, instance, height, *looks, coat_length)


def joints_of(w: Walker) -> NDArray[np.float64]:
    """The 15 joints in the world, [15, 3] metres."""
    held = w.posture or gait(w)
    legs = [_leg(*pair) for pair in zip(held.thighs, held.knees, strict=True)]
    lift = 0.042 - min(ankle[1] for _, ankle in legs)  # the lower foot stands on the ground
    sway, sine, cosine = held.sway, math.sin(held.lean), math.cos(held.lean)

    def trunk(ahead: float, up: float, right: float) -> _Place:
        """A point from the hip of somebody upright, to where leaning brings it."""
        return ahead * cosine + up * sine, up * cosine - ahead * sine + lift, right + sway

    local = {  # joint: (ahead, up from the ground, to the person's right), in heights
        "neck": trunk(0.012, 0.32, 0.0),
        "belly": trunk(0.0, 0.085, 0.0),
        "face": trunk(0.035, 0.415, 0.0),
    }
    for i, (name, side) in enumerate((("right", 1.0), ("left", -1.0))):
        knee, ankle = legs[i]
        elbow, wrist = _arm(held.arms[i], held.elbows[i], held.spread[i])
        local[f"{name}_shoulder"] = trunk(0.0, 0.295, side * 0.108)
        local[f"{name}_hip"] = (0.0, lift, side * 0.052 + sway)
        local[f"{name}_knee"] = (knee[0], knee[1] + lift, side * 0.05 + sway)
        local[f"{name}_ankle"] = (ankle[0], ankle[1] + lift, side * 0.042)
        local[f"{name}_elbow"] = trunk(elbow[0], 0.295 + elbow[1], side * elbow[2])
        local[f"{name}_wrist"] = trunk(wrist[0], 0.295 + wrist[1], side * wrist[2])
    joints = np.array([local[name] for name in JOINTS]) * w.height
    sine, cosine = math.sin(w.heading), math.cos(w.heading)
    ground = KERB_HEIGHT * min(max((abs(w.x) - KERB) / 0.3 + 0.5, 0.0), 1.0)
    x = w.x + joints[:, 0] * sine + joints[:, 2] * cosine
    z = w.z + joints[:, 0] * cosine - joints[:, 2] * sine
    return np.stack((x, joints[:, 1] + ground, z), 1)


def visible_joints(joints: NDArray[Any], shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which joints [K, 2] (column, row in pixels) are where, or beside where, somebody shows.

    shown: bool [H, W], the pixels of that person.
    """
    height, width = shown.shape
    visible = np.zeros(len(joints), np.bool_)
    for i, (x, y) in enumerate(joints):
        column, row = int(np.floor(x)), int(np.floor(y))
        if 0 <= column < width and 0 <= row < height:
            around = shown[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            visible[i] = bool(around.any())
    return visible


def gait(w: Walker) -> Posture:
    """How somebody holds themselves who has walked so far."""
    phase = 2 * math.pi * w.walked / (_STRIDE * w.height)
    steps = phase, phase + math.pi  # of the right leg and the left; arms swing against them
    swing = [math.sin(step) for step in steps]
    right, left = (_SWING * s + 0.06 for s in swing)
    bends = [0.1 + 0.85 * max(math.cos(step), 0.0) ** 1.5 for step in steps]  # swinging forward
    return Posture(
        thighs=(right, left),
        knees=(bends[0], bends[1]),
        arms=(0.38 * swing[1] - 0.05, 0.38 * swing[0] - 0.05),
        elbows=(0.3 + 0.18 * swing[1], 0.3 + 0.18 * swing[0]),
        sway=0.012 * math.cos(phase),
    )


def _leg(thigh: float, bend: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Knee and ankle as (ahead, up) from the hip, in heights."""
    knee = (0.245 * math.sin(thigh), -0.245 * math.cos(thigh))
    shin = thigh - bend
    return knee, (knee[0] + 0.243 * math.sin(shin), knee[1] - 0.243 * math.cos(shin))


def _arm(upper: float, bend: float, spread: float) -> tuple[_Place, _Place]:
    """Elbow and wrist as (ahead, up) from the shoulder, and outwards from the spine, in heights."""
    out, within = math.sin(spread), math.cos(spread)
    lower = upper + bend
    hanging = (0.135, 0.125)  # outwards, of arms that are not spread: the trunk is in their way
    elbow = (
        0.172 * within * math.sin(upper),
        -0.172 * within * math.cos(upper),
        0.108 + 0.172 * out + (hanging[0] - 0.108) * within,
    )
    wrist = (
        elbow[0] + 0.152 * within * math.sin(lower),
        elbow[1] - 0.152 * within * math.cos(lower),
        elbow[2] + 0.152 * out + (hanging[1] - hanging[0]) * within,
    )
    return elbow, wrist


def paint_walker(canvas: Canvas, w: Walker) -> None:
    """Paint one person."""
    joints = joints_of(w)
    h = w.height

    def at(name: str) -> tuple[float, float, float]:
        x, y, z = joints[JOINTS.index(name)]
        return float(x), float(y), float(z)

    def between(a: str, b: str, share: float) -> tuple[float, float, float]:
        x, y, z = (p + (q - p) * share for p, q in zip(at(a), at(b), strict=True))
        return x, y, z

    parts: list[Part] = []
    for side in ("right", "left"):
        hip, knee, ankle = at(f"{side}_hip"), at(f"{side}_knee"), at(f"{side}_ankle")
        shoulder, elbow, wrist = at(f"{side}_shoulder"), at(f"{side}_elbow"), at(f"{side}_wrist")
        sleeve = mix(w.coat, (0, 0, 0), 0.12)
        toe = (
            ankle[0] + 0.085 * h * math.sin(w.heading),
            ankle[1] - 0.026 * h,
            ankle[2] + 0.085 * h * math.cos(w.heading),
        )
        parts += [
            Part(hip, knee, (0.098 * h, 0.07 * h), w.trousers),
            Part(knee, ankle, (0.07 * h, 0.046 * h), mix(w.trousers, (0, 0, 0), 0.1)),
            Part(ankle, toe, (0.046 * h, 0.036 * h), (32, 28, 28)),
            Part(shoulder, elbow, (0.064 * h, 0.054 * h), sleeve),
            Part(elbow, wrist, (0.054 * h, 0.038 * h), sleeve),
            Part(wrist, wrist, (0.044 * h, 0.044 * h), w.skin),
        ]
    paint_parts(canvas, parts, Cls.PEDESTRIAN, w.instance)
    paint_parts(canvas, _trunk(w, joints, between), Cls.PEDESTRIAN, w.instance)
    near = _nearer_side(canvas, joints)
    arm = [
        p
        for p in parts
        if p.start in (at(f"{near}_shoulder"), at(f"{near}_elbow"), at(f"{near}_wrist"))
    ]
    paint_parts(canvas, arm, Cls.PEDESTRIAN, w.instance)


def _trunk(w: Walker, joints: NDArray[np.float64], between: object) -> list[Part]:
    """Torso, neck and head; the torso is as wide as the shoulders look from the camera."""
    assert callable(between)
    h, sine, cosine = w.height, math.sin(w.heading), math.cos(w.heading)
    face = joints[JOINTS.index("face")]
    hip = (joints[JOINTS.index("right_hip")] + joints[JOINTS.index("left_hip")]) / 2
    hem = (float(hip[0]), float(hip[1]) - w.coat_length * h, float(hip[2]))
    skull = (
        float(face[0]) - 0.022 * h * sine,
        float(face[1]) + 0.018 * h,
        float(face[2]) - 0.022 * h * cosine,
    )
    front = (float(face[0]), float(face[1]), float(face[2]))
    chest = between("neck", "belly", 0.22)
    parts = [
        Part(
            between("neck", "belly", 0.1),
            between("neck", "face", 0.6),
            (0.062 * h, 0.058 * h),
            w.skin,
        ),
        Part(skull, skull, (0.106 * h, 0.106 * h), w.hair, 1.2),
        Part(front, front, (0.086 * h, 0.086 * h), w.skin, 1.28),
    ]
    for side in ("right", "left"):  # two halves, so that the width follows the view
        shoulder = between("neck", f"{side}_shoulder", 0.78)
        waist = between("belly", f"{side}_hip", 0.62)
        edge = (waist[0], hem[1], waist[2])
        top = (shoulder[0], shoulder[1] - 0.02 * h, shoulder[2])
        parts += [
            Part(top, waist, (0.1 * h, 0.096 * h), w.coat),
            Part(waist, edge, (0.096 * h, 0.11 * h), w.coat),
        ]
    parts.append(Part(chest, hem, (0.15 * h, 0.13 * h), w.coat))
    return parts


def _nearer_side(canvas: Canvas, joints: NDArray[np.float64]) -> str:
    pair = joints[[JOINTS.index("right_shoulder"), JOINTS.index("left_shoulder")]]
    depth = canvas.camera.turned(pair)[:, 2]
    return "right" if depth[0] < depth[1] else "left"
