"""People who walk: where their joints are at any time, and how they are painted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resq_core.world.canvas import Canvas, Colour, mix
from resq_core.world.figure import Part, paint_parts
from resq_core.world.plan import KERB, KERB_HEIGHT, Cls

__all__ = ["JOINTS", "LIMBS", "Walker", "joints_of", "paint_walker"]

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
class Walker:
    """One person at one moment.

    x, z: on the ground, metres. heading: radians from the street's direction to the right.
    walked: metres walked so far, for the gait. height: metres. The colours are of the clothes
    and the body; `coat_length` is how far the coat reaches below the hip, in heights.
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
    phase = 2 * math.pi * w.walked / (_STRIDE * w.height)
    right, left = _leg(phase), _leg(phase + math.pi)
    lift = 0.042 - min(right[1][1], left[1][1])  # the lower foot stands on the ground
    sway = 0.012 * math.cos(phase)
    shoulder = 0.295 + lift
    forward = {  # joint: (ahead, up from the ground, to the person's right), in heights
        "neck": (0.012, 0.32 + lift, sway),
        "belly": (0.0, 0.085 + lift, sway),
        "face": (0.035, 0.415 + lift, sway),
    }
    for name, side, leg, arm in (
        ("right", 1.0, right, _arm(phase + math.pi)),
        ("left", -1.0, left, _arm(phase)),
    ):
        forward[f"{name}_shoulder"] = (0.0, shoulder, side * 0.108 + sway)
        forward[f"{name}_hip"] = (0.0, lift, side * 0.052 + sway)
        forward[f"{name}_knee"] = (leg[0][0], leg[0][1] + lift, side * 0.05 + sway)
        forward[f"{name}_ankle"] = (leg[1][0], leg[1][1] + lift, side * 0.042)
        forward[f"{name}_elbow"] = (arm[0][0], shoulder + arm[0][1], side * 0.135 + sway)
        forward[f"{name}_wrist"] = (arm[1][0], shoulder + arm[1][1], side * 0.125 + sway)
    local = np.array([forward[name] for name in JOINTS]) * w.height
    sine, cosine = math.sin(w.heading), math.cos(w.heading)
    ground = KERB_HEIGHT * min(max((abs(w.x) - KERB) / 0.3 + 0.5, 0.0), 1.0)
    x = w.x + local[:, 0] * sine + local[:, 2] * cosine
    z = w.z + local[:, 0] * cosine - local[:, 2] * sine
    return np.stack((x, local[:, 1] + ground, z), 1)


def _leg(phase: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Knee and ankle as (ahead, up) from the hip, in heights."""
    thigh = _SWING * math.sin(phase) + 0.06
    bend = 0.1 + 0.85 * max(math.cos(phase), 0.0) ** 1.5  # bent while it swings forward
    knee = (0.245 * math.sin(thigh), -0.245 * math.cos(thigh))
    shin = thigh - bend
    return knee, (knee[0] + 0.243 * math.sin(shin), knee[1] - 0.243 * math.cos(shin))


def _arm(phase: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Elbow and wrist as (ahead, up) from the shoulder, in heights."""
    upper = 0.38 * math.sin(phase) - 0.05
    elbow = (0.172 * math.sin(upper), -0.172 * math.cos(upper))
    lower = upper + 0.3 + 0.18 * math.sin(phase)
    return elbow, (elbow[0] + 0.152 * math.sin(lower), elbow[1] - 0.152 * math.cos(lower))


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
