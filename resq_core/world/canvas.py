"""What is painted on: colours at twice the size, classes and instances at the picture's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from resq_core.world.camera import Camera, Points

__all__ = ["Canvas", "Colour", "mix"]

Colour = tuple[int, int, int]
_SUPER = 2  # colour pixels per label pixel and side
_HAZE: Colour = (205, 212, 220)
_HAZE_METRES = 130.0
_CLASSES = 256
_FAR_OUT = 1e5  # pixels; beyond it Pillow's integers overflow


class Canvas:
    """Paint far things first; what is painted later hides what was there.

    Every surface has a class id (0 to 10) and an instance (0 for none), written without
    anti-aliasing, and a colour, which gets haze with distance.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        height, width = camera.size
        self._colour = Image.new("RGB", (width * _SUPER, height * _SUPER))
        self._label = Image.new("I", (width, height), 0)
        self._draw_on()

    def copy(self) -> Canvas:
        """A canvas with the same paint, independent of this one."""
        other = Canvas.__new__(Canvas)
        other.camera = self.camera
        other._colour, other._label = self._colour.copy(), self._label.copy()
        other._draw_on()
        return other

    def _draw_on(self) -> None:
        self._pen = ImageDraw.Draw(self._colour, "RGBA")
        self._marker = ImageDraw.Draw(self._label)

    def fill(self, colours: NDArray[np.uint8], classes: NDArray[np.uint8]) -> None:
        """Replace everything: colours uint8 [H, W, 3] and classes uint8 [H, W]."""
        height, width = self.camera.size
        self._colour = Image.fromarray(colours).resize((width * _SUPER, height * _SUPER))
        self._label = Image.fromarray(classes.astype(np.int32))
        self._draw_on()

    def surface(
        self,
        points: Points | Sequence[Sequence[float]],
        colour: Colour,
        cls: int,
        instance: int = 0,
    ) -> None:
        """A flat polygon in the world, [N, 3] metres."""
        corners = np.asarray(points, np.float64)
        pixels = self.camera.polygon(corners)
        if pixels:
            middle = corners.mean(0)
            self.shape(pixels, self.hazed(colour, middle[0], middle[2]), cls, instance)

    def shape(
        self, pixels: Sequence[tuple[float, float]], colour: Colour, cls: int, instance: int = 0
    ) -> None:
        """A polygon in pixels of the picture."""
        if not self._seen(pixels):
            return
        self._pen.polygon([(x * _SUPER, y * _SUPER) for x, y in pixels], fill=colour)
        self._marker.polygon(
            [(x - 0.5, y - 0.5) for x, y in pixels], fill=cls + _CLASSES * instance
        )

    def disc(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        colour: Colour,
        cls: int,
        instance: int = 0,
    ) -> None:
        """An ellipse in pixels; radii along columns and rows."""
        x, y = centre
        a, b = radii
        if not self._seen([(x - a, y - b), (x + a, y + b)]) or a < 0.2:
            return
        box = (x - a, y - b, x + a, y + b)
        self._pen.ellipse([v * _SUPER for v in box], fill=colour)
        self._marker.ellipse([v - 0.5 for v in box], fill=cls + _CLASSES * instance)

    def limb(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        widths: tuple[float, float],
        colour: Colour,
        cls: int,
        instance: int,
    ) -> None:
        """A tapered stroke with round ends, in pixels; `widths` are full widths at both ends."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy)
        a, b = widths[0] / 2, widths[1] / 2
        self.disc(start, (a, a), colour, cls, instance)
        self.disc(end, (b, b), colour, cls, instance)
        if length < 1e-6:
            return
        nx, ny = -dy / length, dx / length
        corners = [
            (start[0] + nx * a, start[1] + ny * a),
            (end[0] + nx * b, end[1] + ny * b),
            (end[0] - nx * b, end[1] - ny * b),
            (start[0] - nx * a, start[1] - ny * a),
        ]
        self.shape(corners, colour, cls, instance)

    def shade(self, points: Points | Sequence[Sequence[float]], darkness: float) -> None:
        """Darken a polygon of the ground, 0 to 1; classes stay as they are."""
        pixels = self.camera.polygon(np.asarray(points, np.float64))
        if pixels and self._seen(pixels):
            corners = [(x * _SUPER, y * _SUPER) for x, y in pixels]
            self._pen.polygon(corners, fill=(18, 22, 36, round(255 * darkness)))

    def hazed(self, colour: Colour, x: float, z: float) -> Colour:
        """A colour as it looks from the camera."""
        depth = max(self.camera.depth(x, z), 0.0)
        return mix(colour, _HAZE, 1.0 - math.exp(-depth / _HAZE_METRES))

    def colours(self) -> NDArray[np.float32]:
        """The picture, float32 [H, W, 3], 0 to 255."""
        return np.asarray(self._colour.reduce(_SUPER), np.float32)

    def classes(self) -> NDArray[np.uint8]:
        """Class ids, uint8 [H, W]."""
        return (np.asarray(self._label) % _CLASSES).astype(np.uint8)

    def instances(self) -> NDArray[np.uint16]:
        """Instances, uint16 [H, W]; 0 for none."""
        return (np.asarray(self._label) // _CLASSES).astype(np.uint16)

    def _seen(self, pixels: Sequence[tuple[float, float]]) -> bool:
        height, width = self.camera.size
        xs, ys = [p[0] for p in pixels], [p[1] for p in pixels]
        inside = max(xs) > 0 and min(xs) < width and max(ys) > 0 and min(ys) < height
        return inside and max(map(abs, (*xs, *ys))) < _FAR_OUT


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b and the rest of a."""
    red, green, blue = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return red, green, blue
