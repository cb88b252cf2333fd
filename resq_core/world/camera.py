"""A pinhole camera in a street: metres in, pixels out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Camera", "Points"]

Points = NDArray[np.float64]
"""World points [N, 3] in metres: x to the right, y up, z along the street."""

Turned = tuple[float, float, float]

_NEAR = 0.35
_FOCAL = 0.95  # of the picture's longer side: about 55 degrees across


@dataclass(frozen=True, slots=True)
class Camera:
    """Where the camera stands and how it looks.

    Attributes:
        x, y, z: position in metres; y is the height above the road.
        yaw: radians to the right of the street's direction.
        pitch: radians downwards.
        size: (height, width) of the picture in pixels.
    """

    x: float
    y: float
    z: float
    yaw: float
    pitch: float
    size: tuple[int, int]

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return _FOCAL * max(self.size[1], 1.2 * self.size[0])

    @property
    def horizon(self) -> float:
        """The row of the horizon, in pixels from the top."""
        return self.size[0] * 0.46 - self.focal * math.tan(self.pitch)

    def turned(self, points: Points) -> Points:
        """World points in the camera's axes: right, up, forward."""
        dx, dy, dz = points[:, 0] - self.x, points[:, 1] - self.y, points[:, 2] - self.z
        sine, cosine = math.sin(self.yaw), math.cos(self.yaw)
        return np.stack((dx * cosine - dz * sine, dy, dx * sine + dz * cosine), 1)

    def project(self, points: Points) -> NDArray[np.float64]:
        """World points [N, 3] to pixels [N, 2] (column, row); meant for points in front."""
        return self._pixels(self.turned(points))

    def polygon(self, points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
        """Corners (x, y, z) of a flat polygon in pixels, cut at the near plane; empty behind it."""
        sine, cosine = math.sin(self.yaw), math.cos(self.yaw)
        turned = []
        for x, y, z in points:
            dx, dz = x - self.x, z - self.z
            turned.append((dx * cosine - dz * sine, y - self.y, dx * sine + dz * cosine))
        if any(t[2] < _NEAR for t in turned):
            turned = _clip_near(turned)
        middle, horizon, focal = self.size[1] / 2, self.horizon, self.focal
        return [(middle + focal * r / d, horizon - focal * u / d) for r, u, d in turned]

    def along(
        self, columns: NDArray[np.float64], x: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where columns of pixels meet the plane at `x`: metres of depth, and z."""
        slope = (columns - self.size[1] / 2) / self.focal
        right = slope * math.cos(self.yaw) + math.sin(self.yaw)
        towards = math.copysign(1e-4, x - self.x)
        right = np.maximum(right, towards) if towards > 0 else np.minimum(right, towards)
        depth = (x - self.x) / right
        return depth, self.z + depth * (math.cos(self.yaw) - slope * math.sin(self.yaw))

    def depth(self, x: float, z: float) -> float:
        """Metres in front of the camera."""
        return (x - self.x) * math.sin(self.yaw) + (z - self.z) * math.cos(self.yaw)

    def scale(self, x: float, z: float) -> float:
        """Pixels per metre at a place; 0 behind the near plane."""
        depth = self.depth(x, z)
        return self.focal / depth if depth > _NEAR else 0.0

    def _pixels(self, turned: Points) -> NDArray[np.float64]:
        depth = np.maximum(turned[:, 2], _NEAR)
        columns = self.size[1] / 2 + self.focal * turned[:, 0] / depth
        rows = self.horizon - self.focal * turned[:, 1] / depth
        return np.stack((columns, rows), 1)


def _clip_near(turned: list[Turned]) -> list[Turned]:
    """Sutherland-Hodgman against the near plane; empty where nothing is in front of it."""
    kept: list[Turned] = []
    for here, after in zip(turned, turned[1:] + turned[:1], strict=True):
        if here[2] >= _NEAR:
            kept.append(here)
        if (here[2] >= _NEAR) != (after[2] >= _NEAR):
            share = (_NEAR - here[2]) / (after[2] - here[2])
            right, up = (a + share * (b - a) for a, b in zip(here[:2], after[:2], strict=True))
            kept.append((right, up, _NEAR))
    return kept if len(kept) >= 3 else []
