"""Limbs between points of the world, painted the farthest first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resq_core.world.camera import Points
from resq_core.world.canvas import Canvas, Colour
from resq_core.world.plan import Cls

__all__ = ["Part", "paint_parts"]


@dataclass(frozen=True, slots=True)
class Part:
    """A tapered limb, or a ball where both ends are the same.

    start, end: world points, metres. widths: full widths at both ends, metres. colour: without
    haze. tall: height over width of a ball.
    """

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    widths: tuple[float, float]
    colour: Colour
    tall: float = 1.0


def paint_parts(canvas: Canvas, parts: list[Part], cls: Cls, instance: int) -> None:
    """Paint parts of one body; those whose middle is nearest come last."""
    camera = canvas.camera
    ends: Points = np.array([p for part in parts for p in (part.start, part.end)])
    if camera.turned(ends)[:, 2].min() < 0.5:
        return
    pixels = camera.project(ends)
    depths = camera.turned(ends)[:, 2].reshape(-1, 2)
    for i in np.argsort(-depths.mean(1), kind="stable"):
        part = parts[i]
        colour = canvas.hazed(part.colour, part.start[0], part.start[2])
        start = (float(pixels[2 * i, 0]), float(pixels[2 * i, 1]))
        end = (float(pixels[2 * i + 1, 0]), float(pixels[2 * i + 1, 1]))
        widths = tuple(w * camera.focal / d for w, d in zip(part.widths, depths[i], strict=True))
        if part.start == part.end:
            radius = widths[0] / 2
            canvas.disc(start, (radius, radius * part.tall), colour, cls, instance)
        else:
            canvas.limb(start, end, (widths[0], widths[1]), colour, cls, instance)
