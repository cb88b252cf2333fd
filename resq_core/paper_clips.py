"""The clips that the paper's BOP tables average over: lengths, objects and sizes.

DAVIS 2017's validation videos at 480p, of which the single-object DAVIS 2016 takes twenty, and
the clip length that the pose figures imply. Frame counts and the two scales are not from the data
sets' own files: they were checked against DAVIS's known totals, 1376 and 1999 frames, 61 objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["DAVIS16", "DAVIS17", "JHMDB", "Clip"]


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip.

    Attributes:
        name: as the data set calls it.
        frames: its length.
        objects: how many are followed.
        scale: pixels of a frame relative to the network's usual input, once padded.
        in_2016: whether DAVIS 2016 has it, with all its objects as one.
    """

    name: str
    frames: int
    objects: int = 1
    scale: float = 1.0
    in_2016: bool = False


DAVIS17: tuple[Clip, ...] = (
    Clip("bike-packing", 69, 2, scale=912 / 864),
    Clip("blackswan", 50, 1, in_2016=True),
    Clip("bmx-trees", 80, 2, in_2016=True),
    Clip("breakdance", 84, 1, in_2016=True),
    Clip("camel", 90, 1, in_2016=True),
    Clip("car-roundabout", 75, 1, in_2016=True),
    Clip("car-shadow", 40, 1, in_2016=True),
    Clip("cows", 104, 1, in_2016=True),
    Clip("dance-twirl", 90, 1, in_2016=True),
    Clip("dog", 60, 1, in_2016=True),
    Clip("dogs-jump", 66, 3),
    Clip("drift-chicane", 52, 1, in_2016=True),
    Clip("drift-straight", 50, 1, in_2016=True),
    Clip("goat", 90, 1, in_2016=True),
    Clip("gold-fish", 78, 5),
    Clip("horsejump-high", 50, 2, in_2016=True),
    Clip("india", 81, 3),
    Clip("judo", 34, 2),
    Clip("kite-surf", 50, 3, in_2016=True),
    Clip("lab-coat", 47, 5),
    Clip("libby", 49, 1, in_2016=True),
    Clip("loading", 50, 3),
    Clip("mbike-trick", 79, 2),
    Clip("motocross-jump", 40, 2, in_2016=True),
    Clip("paragliding-launch", 80, 3, in_2016=True),
    Clip("parkour", 100, 1, in_2016=True),
    Clip("pigs", 79, 3),
    Clip("scooter-black", 43, 2, in_2016=True),
    Clip("shooting", 40, 3, scale=1152 / 864),
    Clip("soapbox", 99, 3, in_2016=True),
)
DAVIS16: tuple[Clip, ...] = tuple(replace(c, objects=1) for c in DAVIS17 if c.in_2016)
JHMDB: tuple[Clip, ...] = (Clip("any of 40 frames", 40),)
