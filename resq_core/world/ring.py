"""An endless street from a finite one: places on a ring that follows the camera.

A slot is a place on a ring of `LENGTH` metres, and may move along it. Whoever leaves the ring
behind the camera enters it far ahead as somebody else: the lap number picks another appearance.
So every frame can be had from its time alone, and nothing ever runs out.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

__all__ = ["BEHIND", "LENGTH", "Place", "place", "randomness"]

LENGTH = 96.0
BEHIND = 8.0  # metres of the ring behind the camera
_LAPS = 61


@dataclass(frozen=True, slots=True)
class Place:
    """Where a slot is now: metres along the street, and which lap it is on."""

    z: float
    lap: int


def place(offset: float, velocity: float, seconds: float, camera_z: float) -> Place:
    """The place of a slot.

    Args:
        offset: metres along the ring at time zero.
        velocity: metres per second along the street.
        seconds: time.
        camera_z: where the camera is.
    """
    along = offset + velocity * seconds - camera_z + BEHIND
    lap = int(np.floor(along / LENGTH))
    return Place(along - lap * LENGTH + camera_z - BEHIND, lap % _LAPS)


def randomness(seed: int, kind: str, slot: int, lap: int) -> np.random.Generator:
    """The numbers that one inhabitant of a slot is made from, always the same ones."""
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), slot, lap])
