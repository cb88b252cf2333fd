"""Who is on the street at a time: walkers, cars and bicyclists, each from its slot on the ring."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resq_core.world.bicyclists import Bicyclist
from resq_core.world.cars import Car
from resq_core.world.ground import CROSSING
from resq_core.world.people import Walker
from resq_core.world.plan import LEFT_LANE, PARKING, PATH, RIGHT_LANE
from resq_core.world.ring import LENGTH, place, randomness

__all__ = ["Traffic", "parked_cars", "traffic"]

_CYCLE = 12.0  # seconds: people cross while no car comes
_CAR_SPEED = LENGTH / _CYCLE
_BICYCLE_SPEED = _CAR_SPEED / 2
_PASSES = 9.6  # seconds into a cycle when cars pass the crossing
_WALKERS = 16
_CROSSERS = 3
_PARKED = 8
_START = 4.0  # seconds of the cycle that are over at time zero
_KINDS = ("walker", "crosser", "car", "bicyclist", "parked")
_SLOTS = 1 << 6


@dataclass(frozen=True, slots=True)
class Traffic:
    """Everybody who moves."""

    walkers: tuple[Walker, ...]
    cars: tuple[Car, ...]
    bicyclists: tuple[Bicyclist, ...]


def _instance(kind: str, slot: int, lap: int) -> int:
    """An id of its own for everybody, 1 to 65,535."""
    return 1 + _KINDS.index(kind) + len(_KINDS) * (slot + _SLOTS * lap)


def traffic(seed: int, seconds: float, camera_z: float, camera_speed: float) -> Traffic:
    """Everybody on the ring at a time.

    Args:
        seed: which street.
        seconds: time from its beginning.
        camera_z: metres along the street.
        camera_speed: of a moving camera; 0 for a street with a crossing.
    """
    walkers = [*_walkers(seed, seconds, camera_z)]
    if camera_speed == 0.0:
        walkers += _crossers(seed, seconds)
    cars = []
    for slot, (x, ahead) in enumerate(((LEFT_LANE, 1), (RIGHT_LANE, -1))):
        speed = camera_speed if ahead == 1 and camera_speed else _CAR_SPEED
        offset = CROSSING - ahead * speed * (_PASSES - _START)
        if ahead == 1 and camera_speed:
            offset = 24.0  # the car that the camera follows
        at = place(offset, ahead * speed, seconds, camera_z)
        rng = randomness(seed, "car", slot, at.lap)
        cars.append(Car.painted(rng, _instance("car", slot, at.lap), x, at.z, ahead))
    riders = []
    for slot, (x, ahead) in enumerate(((-3.55, 1), (2.35, -1))):
        offset = CROSSING - ahead * _BICYCLE_SPEED * (_PASSES - _START + 0.8 + _CYCLE * slot)
        at = place(offset, ahead * _BICYCLE_SPEED, seconds, camera_z)
        rng = randomness(seed, "bicyclist", slot, at.lap)
        jacket = ((176, 62, 40), (52, 92, 120), (196, 170, 60))[int(rng.integers(3))]
        instance = _instance("bicyclist", slot, at.lap)
        ridden = _BICYCLE_SPEED * seconds
        riders.append(Bicyclist(x, at.z, ahead, ridden, instance, jacket))
    return Traffic(tuple(walkers), tuple(cars), tuple(riders))


def parked_cars(seed: int, camera_z: float) -> list[Car]:
    """Cars along the right kerb."""
    found = []
    for slot in range(_PARKED):
        at = place(7.0 + slot * LENGTH / _PARKED, 0.0, 0.0, camera_z)
        rng = randomness(seed, "parked", slot, at.lap)
        if rng.random() < 0.45 and abs(at.z - CROSSING) > 4.5:
            instance = _instance("parked", slot, at.lap)
            found.append(Car.painted(rng, instance, PARKING, at.z, -1))
    return found


def _walkers(seed: int, seconds: float, camera_z: float) -> list[Walker]:
    found = []
    for slot in range(_WALKERS):
        fixed = randomness(seed, "walk", slot, 0)
        speed, ahead = float(fixed.uniform(1.1, 1.55)), 1 if slot % 4 < 2 else -1
        offset = float(fixed.uniform(0, 4)) + slot * LENGTH / _WALKERS
        at = place(offset, ahead * speed, seconds, camera_z)
        rng = randomness(seed, "walker", slot, at.lap)
        side = 1 if slot % 2 else -1
        x = side * (PATH + 0.2 + 0.5 * ahead * side + float(rng.uniform(-0.25, 0.25)))
        heading = 0.0 if ahead == 1 else math.pi
        instance = _instance("walker", slot, at.lap)
        found.append(Walker.dressed(rng, instance, x, at.z, heading, speed * seconds))
    return found


def _crossers(seed: int, seconds: float) -> list[Walker]:
    """People on the zebra crossing, from one front door to another, once a cycle."""
    found = []
    for slot in range(_CROSSERS):
        since = seconds + _START - 0.7 * slot
        lap, moment = divmod(since, _CYCLE)
        fixed = randomness(seed, "crosser", slot, int(lap) % 61)
        speed, ahead = float(fixed.uniform(1.3, 1.5)), 1 if slot % 2 else -1
        walked = speed * moment
        if walked > 14.6:
            continue
        x = ahead * (walked - 7.3)
        z = CROSSING + 0.75 * (slot - 1)
        instance = _instance("crosser", slot, int(lap) % 61)
        heading = ahead * math.pi / 2
        found.append(Walker.dressed(fixed, instance, x, z, heading, walked))
    return found
