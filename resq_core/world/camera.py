"""A pinhole camera in a street: metres in, pixels out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Camera", "Points"]

Points = NDArray[np.float64]
"""World points [N, 3] in metres: x to the right, y up, z along the street."""

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

    def polygon(self, points: Points) -> list[tuple[float, float]]:
        """Corners of a flat polygon in pixels, cut at the near plane; empty if it is behind."""
        turned = _clip_near(self.turned(points))
        if len(turned) < 3:
            return []
        return [(float(u), float(v)) for u, v in self._pixels(turned)]

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


def _clip_near(turned: Points) -> Points:
    """Sutherland-Hodgman against the near plane."""
    inside = turned[:, 2] >= _NEAR
    if inside.all():
        return turned
    kept: list[NDArray[np.float64]] = []
    for i in range(len(turned)):
        here, after = turned[i], turned[(i + 1) % len(turned)]
        if inside[i]:
            kept.append(here)
        if inside[i] != inside[(i + 1) % len(turned)]:
            share = (_NEAR - here[2]) / (after[2] - here[2])
            kept.append(here + share * (after - here))
    return np.array(kept).reshape(-1, 3)
