"""What is painted on: colours at twice the size, classes and instances at the picture's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from resq_core.world.camera import Camera
from resq_core.world.mipmap import LEVELS, Mipmap

__all__ = ["HAZE", "HAZE_METRES", "Canvas", "Colour", "mix"]

Colour = tuple[int, int, int]
_SUPER = 2  # colour pixels per label pixel and side
HAZE: Colour = (205, 212, 220)
HAZE_METRES = 150.0
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

    def fill(self, colours: NDArray[np.uint8]) -> None:
        """Replace everything by sky: colours uint8 [h, w, 3], enlarged to fit."""
        height, width = self.camera.size
        wide = (width * _SUPER, height * _SUPER)
        self._colour = Image.fromarray(colours).resize(wide, Image.Resampling.BICUBIC)
        self._label = Image.new("I", (width, height), 0)
        self._draw_on()

    def refill(self, colours: NDArray[np.uint8], share: Image.Image) -> None:
        """Replace the sky alone; `share` (L, twice the size) is how much of each pixel is sky."""
        large = Image.fromarray(colours).resize(self._colour.size, Image.Resampling.BICUBIC)
        self._colour.paste(large, (0, 0), share)

    def difference(self, other: Canvas) -> Image.Image:
        """How much the red of two canvases differs, L, twice the size."""
        pair = (canvas._colour.getchannel(0) for canvas in (self, other))
        return ImageChops.difference(*pair)

    def surface(
        self,
        points: Sequence[Sequence[float]],
        colour: Colour,
        cls: int,
        instance: int = 0,
        opacity: int = 255,
    ) -> None:
        """A flat polygon in the world, corners (x, y, z) in metres; opacity 0 to 255."""
        pixels = self.camera.polygon(points)
        if pixels:
            x = sum(p[0] for p in points) / len(points)
            z = sum(p[2] for p in points) / len(points)
            self.shape(pixels, self.hazed(colour, x, z), cls, instance, opacity)

    def shape(
        self,
        pixels: Sequence[tuple[float, float]],
        colour: Colour,
        cls: int,
        instance: int = 0,
        opacity: int = 255,
    ) -> None:
        """A polygon in pixels of the picture; no pixels, nothing painted."""
        if not pixels or not self._seen(pixels):
            return
        self._pen.polygon([(x * _SUPER, y * _SUPER) for x, y in pixels], fill=(*colour, opacity))
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

    def wall(
        self,
        x: float,
        span: tuple[float, float],
        height: float,
        picture: Mipmap,
        per_metre: int,
        cls: int,
    ) -> None:
        """A picture on a wall along the street.

        x: of the wall. span: where it starts and ends, metres. picture: rows along the street
        from the start, columns up from the ground, `per_metre` of each per metre.
        """
        (start, end), camera = span, self.camera
        corners = [(x, 0.0, start), (x, 0.0, end), (x, height, end), (x, height, start)]
        outline = camera.polygon(corners)
        if not outline or not self._seen(outline):
            return
        limits = camera.size[1] * _SUPER, camera.size[0] * _SUPER
        columns, rows = ([p[axis] * _SUPER for p in outline] for axis in (0, 1))
        left, right = max(int(min(columns)), 0), min(int(max(columns)) + 2, limits[0])
        top, bottom = max(int(min(rows)), 0), min(int(max(rows)) + 2, limits[1])
        u = (np.arange(left, right) + 0.5) / _SUPER
        v = (np.arange(top, bottom) + 0.5) / _SUPER
        depth, z = camera.along(u, x)
        patch = _patch(camera, picture, per_metre, (depth, z - start, v))
        cover = Image.new("1", (right - left, bottom - top))
        ImageDraw.Draw(cover).polygon(
            [(a - left, b - top) for a, b in zip(columns, rows, strict=True)], fill=1
        )
        self._colour.paste(Image.fromarray(patch), (left, top), cover)
        self._marker.polygon([(a - 0.5, b - 0.5) for a, b in outline], fill=cls)

    def sprite(
        self,
        levels: Sequence[tuple[Image.Image, Image.Image]],
        box: tuple[float, float, float, float],
        lean: float,
        depth: float,
        cls: int,
    ) -> None:
        """A picture with coverage, at (left, top, right, bottom) in pixels of the picture.

        levels: (RGB, L), each half the size of the one before. lean: how far its top is moved
        to the right, in its heights. depth: metres, for the haze.
        """
        left, top, right, bottom = (v * _SUPER for v in box)
        height, width = (side * _SUPER for side in self.camera.size)
        margin = abs(lean) * (bottom - top)
        x0, y0 = max(int(left - margin) // 2 * 2, 0), max(int(top) // 2 * 2, 0)
        x1, y1 = min(int(right + margin) // 2 * 2 + 2, width), min(int(bottom) // 2 * 2 + 2, height)
        if x1 <= x0 or y1 <= y0 or right - left < 2:
            return
        wanted = math.log2(max(levels[0][0].width / (right - left), 1.0))
        colours, cover = levels[min(round(wanted), len(levels) - 1)]
        a, e = colours.width / (right - left), colours.height / (bottom - top)
        shear = (a * lean, a * (x0 - left - lean * (bottom - y0)))
        how = ((x1 - x0, y1 - y0), Image.Transform.AFFINE, (a, *shear, 0, e, e * (y0 - top)))
        painted = colours.transform(*how, resample=Image.Resampling.BILINEAR)
        shown = cover.transform(*how, resample=Image.Resampling.BILINEAR)
        haze = Image.new("RGB", painted.size, HAZE)
        painted = Image.blend(painted, haze, 1.0 - math.exp(-depth / HAZE_METRES))
        self._colour.paste(painted, (x0, y0), shown)
        mask = shown.reduce(_SUPER).point([0] * 112 + [255] * 144, "1")
        self._label.paste(cls, (x0 // _SUPER, y0 // _SUPER), mask)

    def shade(self, points: Sequence[Sequence[float]], darkness: float) -> None:
        """Darken a polygon of the ground, 0 to 1; classes stay as they are."""
        pixels = self.camera.polygon(points)
        if pixels and self._seen(pixels):
            corners = [(x * _SUPER, y * _SUPER) for x, y in pixels]
            self._pen.polygon(corners, fill=(18, 22, 36, round(255 * darkness)))

    def hazed(self, colour: Colour, x: float, z: float) -> Colour:
        """A colour as it looks from the camera."""
        depth = max(self.camera.depth(x, z), 0.0)
        return mix(colour, HAZE, 1.0 - math.exp(-depth / HAZE_METRES))

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


def _patch(
    camera: Camera,
    picture: Mipmap,
    per_metre: int,
    place: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.uint8]:
    """A wall's pixels, hazed; place: depth and metres from its start by column, and the rows."""
    depth, z, rows = place
    up = camera.y + (camera.horizon - rows)[:, None] * (depth / camera.focal)
    tall = depth * (per_metre / (camera.focal * _SUPER))
    wide = np.abs(np.gradient(z)) * per_metre if len(z) > 1 else tall
    level = np.clip(np.rint(0.5 * np.log2(np.maximum(tall * wide, 1e-3))), 0, LEVELS - 1)
    pixels = picture.look_up(
        level.astype(np.int32), (z * per_metre).astype(np.int32), (up * per_metre).astype(np.int32)
    )
    clear = np.exp(-depth / HAZE_METRES).astype(np.float32)[:, None]
    hazed: NDArray[np.uint8] = (
        pixels[..., :3] * clear + np.array(HAZE, np.float32) * (1 - clear)
    ).astype(np.uint8)
    return hazed


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b and the rest of a."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )
