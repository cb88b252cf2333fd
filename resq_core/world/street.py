"""The street: any frame of it, with its exact labels."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resq_core.errors import OptionError
from resq_core.world.bicyclists import paint_bicyclist
from resq_core.world.buildings import paint_building
from resq_core.world.camera import Camera
from resq_core.world.canvas import Canvas
from resq_core.world.cars import paint_car
from resq_core.world.ground import grained, paint_ground, paint_park
from resq_core.world.horizon import paint_horizon
from resq_core.world.houses import buildings
from resq_core.world.people import Walker, joints_of, paint_walker, visible_joints
from resq_core.world.props import paint_fence, paint_prop, park_span, park_trees, props
from resq_core.world.shadows import paint_shadows
from resq_core.world.textures import Grain, sky
from resq_core.world.traffic import parked_cars, traffic

__all__ = ["CameraKind", "Person", "Street", "StreetFrame"]

_MIN_SIDE, _MAX_SIDE = 64, 4096
_DRIVE = 7.0  # metres per second of a moving camera


class CameraKind(StrEnum):
    """STATIC looks from the kerb and never moves; MOVING drives along the street."""

    STATIC = "static"
    MOVING = "moving"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody on foot.

    Attributes:
        instance: the id in the instance map, 1 to 65,535.
        joints: float32 [15, 2], column and row in pixels, in the order of `JOINTS`; may lie
            outside the picture.
        visible: bool [15]: inside the picture, and nothing nearer in front of it.
    """

    instance: int
    joints: NDArray[np.float32]
    visible: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StreetFrame:
    """One frame and what is true of it.

    Attributes:
        image: uint8 [H, W, 3] RGB with sensor noise.
        classes: uint8 [H, W], ids of `resq_core.tasks.CAMVID11`.
        instances: uint16 [H, W]; 0 for none. People, cars and bicyclists keep their id.
        people: everybody on foot of whom at least one joint is in front of the camera.
    """

    image: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    people: tuple[Person, ...]


class Street:
    """An endless street, drawn from a seed. Immutable: threads may share one.

    Args:
        seed: which street, 0 to 2^31 − 1.
        size: (height, width) in pixels, each 64 to 4096.
        camera: `static` or `moving`.
        fps: frames per second, above 0 to 240.
        noise: standard deviation of the sensor noise in grey levels at medium brightness, 0 to 64.

    Raises:
        OptionError: naming the option, its value, and what was expected.
    """

    def __init__(
        self,
        seed: int = 0,
        size: tuple[int, int] = (360, 480),
        camera: str = "static",
        fps: float = 15.0,
        noise: float = 2.0,
    ) -> None:
        _check(isinstance(seed, int) and 0 <= seed < 1 << 31, "seed", seed, "0 to 2147483647")
        sides = len(size) == 2 and all(_MIN_SIDE <= side <= _MAX_SIDE for side in size)
        _check(sides, "size", size, f"(height, width), each {_MIN_SIDE} to {_MAX_SIDE}")
        _check(camera in list(CameraKind), "camera", camera, "static or moving")
        _check(math.isfinite(fps) and 0 < fps <= 240, "fps", fps, "above 0, at most 240")
        _check(math.isfinite(noise) and 0 <= noise <= 64, "noise", noise, "0 to 64")
        self.seed, self.size, self.camera = seed, (size[0], size[1]), CameraKind(camera)
        self.fps, self.noise = fps, noise
        self._grain = Grain(seed)
        self._backdrop: tuple[Canvas, Image.Image] | None = None
        self._lock = threading.Lock()

    def frame(self, t: int) -> StreetFrame:
        """Frame t, always the same one, whatever was drawn before.

        Raises:
            OptionError: t is negative.
        """
        _check(isinstance(t, int) and t >= 0, "t", t, "a whole number of 0 or more")
        seconds = t / self.fps
        camera = self._view(seconds)
        canvas = self._background(camera, seconds)
        walkers = self._paint(canvas, seconds)
        classes, instances, colours = canvas.classes(), canvas.instances(), canvas.colours()
        grained(colours, classes, instances == 0, camera, self._grain)
        people = tuple(filter(None, (_person(w, camera, instances) for w in walkers)))
        return StreetFrame(self._sensed(colours, t), classes, instances, people)

    def _view(self, seconds: float) -> Camera:
        if self.camera is CameraKind.STATIC:
            return Camera(0.1, 1.6, -3.0, 0.0, 0.02, self.size)
        bob = 0.012 * math.sin(5.1 * seconds)
        yaw = 0.035 * math.sin(0.37 * seconds)
        sway = -1.45 + 0.12 * math.sin(0.23 * seconds)
        return Camera(sway, 1.55 + bob, _DRIVE * seconds, yaw, 0.02 + 0.2 * bob, self.size)

    def _background(self, camera: Camera, seconds: float) -> Canvas:
        """Sky, ground and fronts; all but the sky painted once where the camera never moves."""
        heaven = sky(camera, self._grain, seconds)
        if self.camera is CameraKind.MOVING:
            return self._painted_background(camera, heaven)
        with self._lock:
            if self._backdrop is None:
                # what differs between a black and a white sky is sky
                black = self._painted_background(camera, np.zeros_like(heaven))
                white = self._painted_background(camera, np.full_like(heaven, 255))
                self._backdrop = black, black.difference(white)
            canvas, share = self._backdrop[0].copy(), self._backdrop[1]
        canvas.refill(heaven, share)
        return canvas

    def _painted_background(self, camera: Camera, heaven: NDArray[np.uint8]) -> Canvas:
        canvas = Canvas(camera)
        canvas.fill(heaven)
        paint_ground(canvas)
        paint_horizon(canvas, self.seed)
        start, end = park_span(camera.z)
        paint_park(canvas, start, end)
        fronts = buildings(self.seed, camera.z)
        walls: list[tuple[float, Callable[[], None]]] = [
            (front.start, partial(paint_building, canvas, front)) for front in fronts
        ]
        for tree in park_trees(self.seed, camera.z):
            walls.append((tree.z, partial(paint_prop, canvas, tree, 0.0)))
        for _, paint in sorted(walls, key=lambda item: -item[0]):
            paint()
        paint_fence(canvas, start, end)
        standing = [p for p in props(self.seed, camera.z) if p.kind == "tree"]
        parked = parked_cars(self.seed, camera.z)
        paint_shadows(canvas, fronts, standing, parked)
        return canvas

    def _paint(self, canvas: Canvas, seconds: float) -> tuple[Walker, ...]:
        """Everything that stands or moves on the street, the farthest first."""
        z = canvas.camera.z
        speed = _DRIVE if self.camera is CameraKind.MOVING else 0.0
        now = traffic(self.seed, seconds, z, speed)
        paint_shadows(canvas, (), (), now.cars, now.walkers, now.bicyclists)
        things: list[tuple[float, float, Callable[[], None]]] = []
        things += [(p.x, p.z, partial(paint_prop, canvas, p, seconds)) for p in props(self.seed, z)]
        cars = [*now.cars, *parked_cars(self.seed, z)]
        things += [(c.x, c.z - 1.2, partial(paint_car, canvas, c)) for c in cars]
        things += [(b.x, b.z, partial(paint_bicyclist, canvas, b)) for b in now.bicyclists]
        things += [(w.x, w.z, partial(paint_walker, canvas, w)) for w in now.walkers]
        for _, _, paint in sorted(things, key=lambda i: -canvas.camera.depth(i[0], i[1])):
            paint()
        return now.walkers

    def _sensed(self, colours: NDArray[np.float32], t: int) -> NDArray[np.uint8]:
        """What a sensor makes of the light: noise that grows with brightness, whole numbers."""
        if self.noise:
            rng = np.random.default_rng([self.seed, 13, t])
            grain = rng.standard_normal(colours.shape, np.float32)
            colours = colours + self.noise * grain * np.sqrt(0.4 + colours / 213)
        rounded: NDArray[np.uint8] = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
        return rounded


def _check(valid: bool, name: str, value: object, expected: str) -> None:
    if not valid:
        raise OptionError(f"{name} is {value!r}; expected {expected}")


def _person(walker: Walker, camera: Camera, instances: NDArray[np.uint16]) -> Person | None:
    world = joints_of(walker)
    if camera.turned(world)[:, 2].min() < 0.5:
        return None
    joints = camera.project(world)
    visible = visible_joints(joints, instances == walker.instance)
    return Person(walker.instance, joints.astype(np.float32), visible)
