"""Where the parts of the street are, in metres from its middle, and what they are called."""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "FACADE",
    "KERB",
    "KERB_HEIGHT",
    "LEFT_LANE",
    "PARKING",
    "PATH",
    "RIGHT_LANE",
    "Cls",
]

KERB = 4.6  # the road is twice this wide
KERB_HEIGHT = 0.12
PATH = 6.1  # the middle of the pavement
FACADE = 7.6
LEFT_LANE, RIGHT_LANE = -1.55, 1.45
PARKING = 3.55


class Cls(IntEnum):
    """Class ids of CamVid's 11 classes (`resq_core.tasks.CAMVID11`)."""

    SKY = 0
    BUILDING = 1
    POLE = 2
    ROAD = 3
    PAVEMENT = 4
    TREE = 5
    SIGN = 6
    FENCE = 7
    CAR = 8
    PEDESTRIAN = 9
    BICYCLIST = 10
