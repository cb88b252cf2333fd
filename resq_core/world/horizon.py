"""Trees far away, where the street seems to end."""

from __future__ import annotations

import numpy as np

from resq_core.world.canvas import Canvas, Colour, mix
from resq_core.world.plan import Cls

__all__ = ["paint_horizon"]

_AWAY = 105.0  # metres; it keeps its distance
_LEAVES: Colour = (88, 100, 74)


def paint_horizon(canvas: Canvas, seed: int) -> None:
    """Paint two rows of round crowns across the picture."""
    rng = np.random.default_rng([seed, 40_961])
    z = canvas.camera.z + _AWAY
    for row in (0, 1):
        colour = mix(_LEAVES, (150, 160, 150), 0.35 - 0.35 * row)
        for x in np.arange(-90.0, 90.0, 3.0):
            place, tall = x + rng.uniform(-1.5, 1.5), rng.uniform(4.5, 8.5) - 2.2 * row
            angles = np.linspace(0, np.pi, 7)
            top = [(place + 2.6 * np.cos(a), tall - 2 + 2 * np.sin(a), z) for a in angles]
            outline = [*top, (place - 2.6, 0.0, z), (place + 2.6, 0.0, z)]
            canvas.surface(outline, colour, Cls.TREE)
