"""Who lives along the street: terraces, shops and flats, with a park here and there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resq_core.world.canvas import Colour
from resq_core.world.ring import LENGTH, place, randomness

__all__ = ["PARK", "WIDTH", "Building", "buildings"]

SLOTS = 7
WIDTH = LENGTH / SLOTS
PARK = 3
"""The slot that holds trees behind a fence on one side."""

_BRICKS: tuple[Colour, ...] = ((154, 98, 76), (168, 118, 88), (134, 90, 76), (176, 142, 106))
_PLASTERS: tuple[Colour, ...] = (
    (218, 210, 192),
    (204, 186, 158),
    (212, 200, 190),
    (184, 192, 190),
    (196, 172, 148),
)
_FRONTS: tuple[Colour, ...] = (
    (52, 92, 78),
    (128, 48, 46),
    (58, 74, 112),
    (112, 106, 98),
    (140, 108, 50),
    (40, 88, 100),
)
_ROOFS: tuple[Colour, ...] = ((98, 86, 82), (122, 84, 70), (86, 88, 94))


@dataclass(frozen=True, slots=True)
class Building:
    """One house front.

    side: -1 left, +1 right. start, end: metres along the street. brick: bricks, or plaster.
    wall, front, roof: colours; the front's is of doors and shops. trim: white window frames.
    floors: above the ground floor. shop: a shop on the ground floor. pitched: a sloping roof.
    bays: windows per floor. lit: share of lit windows. seed: of the details.
    """

    side: int
    start: float
    end: float
    brick: bool
    wall: Colour
    front: Colour
    roof: Colour
    trim: bool
    floors: int
    shop: bool
    pitched: bool
    bays: int
    lit: float
    seed: int

    @property
    def height(self) -> float:
        """Metres to the eaves."""
        return 3.9 + 3.0 * self.floors


def buildings(seed: int, camera_z: float) -> list[Building]:
    """All fronts on the ring, the farthest first."""
    found = []
    for side in (-1, 1):
        for slot in range(SLOTS):
            if side == -1 and slot == PARK:
                continue
            offset = slot * WIDTH + (3.0 if side == 1 else 0.0)
            at = place(offset, 0.0, 0.0, camera_z + WIDTH)  # it may begin behind the ring's end
            rng = randomness(seed, f"building{side}", slot, at.lap)
            found.append(_building(rng, side, at.z))
    return sorted(found, key=lambda b: -b.start)


def _building(rng: np.random.Generator, side: int, start: float) -> Building:
    brick = bool(rng.random() < 0.55)
    walls = _BRICKS if brick else _PLASTERS
    return Building(
        side=side,
        start=start,
        end=start + WIDTH,
        brick=brick,
        wall=walls[int(rng.integers(len(walls)))],
        front=_FRONTS[int(rng.integers(len(_FRONTS)))],
        roof=_ROOFS[int(rng.integers(len(_ROOFS)))],
        trim=bool(rng.random() < 0.7),
        floors=int(rng.integers(1, 4)),
        shop=bool(rng.random() < 0.38),
        pitched=bool(rng.random() < 0.7),
        bays=int(rng.integers(4, 7)),
        lit=float(rng.random() * 0.25),
        seed=int(rng.integers(1 << 30)),
    )
