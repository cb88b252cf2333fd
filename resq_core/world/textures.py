"""Grain that is fixed in the world: asphalt, paving, brick, clouds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_core.world.camera import Camera

__all__ = ["Grain", "rays", "sky"]

Metres = NDArray[np.floating[Any]]

_SIDE = 256
_ZENITH = np.array([92, 142, 202], np.float32)
_LOW_SKY = np.array([212, 224, 233], np.float32)
_CLOUD = np.array([252, 251, 248], np.float32)
_BELLY = np.array([58, 50, 40], np.float32)  # darker where clouds are thick


def _noise(rng: np.random.Generator, octaves: tuple[tuple[int, float], ...]) -> NDArray[np.float32]:
    """Value noise that tiles, [_SIDE, _SIDE], mean 0; octaves are (cells per side, strength)."""
    total = np.zeros((_SIDE, _SIDE), np.float32)
    for cells, strength in octaves:
        values = rng.standard_normal((cells, cells)).astype(np.float32)
        at = np.arange(_SIDE) * cells / _SIDE
        low = at.astype(int)
        share = (at - low).astype(np.float32)
        share = share * share * (3 - 2 * share)
        high = (low + 1) % cells
        rows = values[low] * (1 - share)[:, None] + values[high] * share[:, None]
        total += strength * (rows[:, low] * (1 - share) + rows[:, high] * share)
    return total


class Grain:
    """Noise of one street, looked up by world coordinates. Immutable."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 77])
        self._fine = _noise(rng, ((128, 0.5), (64, 0.35), (16, 0.5), (4, 0.4)))
        self._soft = _noise(rng, ((4, 1.0), (8, 0.6), (16, 0.35), (32, 0.2), (64, 0.1)))

    def fine(self, u: Metres, v: Metres) -> NDArray[np.float32]:
        """Grain of surfaces at metres (u, v); a tile is 16 m."""
        scale = _SIDE / 16
        return self._look_up(self._fine, u * scale, v * scale)

    def soft(self, u: Metres, v: Metres) -> NDArray[np.float32]:
        """Clouds and stains; a tile has the side 1."""
        return self._look_up(self._soft, u * _SIDE, v * _SIDE)

    def smooth(self, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same as `soft`, without steps between the cells of the table."""
        u, v = u * np.float32(_SIDE), v * np.float32(_SIDE)
        a, b = u - np.floor(u), v - np.floor(v)
        low = self._look_up(self._soft, u, v) * (1 - a) + self._look_up(self._soft, u + 1, v) * a
        v = v + 1
        high = self._look_up(self._soft, u, v) * (1 - a) + self._look_up(self._soft, u + 1, v) * a
        return (low * (1 - b) + high * b).astype(np.float32)

    def _look_up(self, table: NDArray[np.float32], u: Metres, v: Metres) -> NDArray[np.float32]:
        found: NDArray[np.float32] = table[
            np.floor(v).astype(np.int64) % _SIDE, np.floor(u).astype(np.int64) % _SIDE
        ]
        return found


def rays(camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Directions of all pixels in world axes, each [H, W]: right, up, forward."""
    height, width = camera.size
    columns = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / camera.focal
    rows = (camera.horizon - np.arange(height, dtype=np.float32) - 0.5) / camera.focal
    sine, cosine = np.float32(np.sin(camera.yaw)), np.float32(np.cos(camera.yaw))
    right = columns * cosine + sine
    forward = cosine - columns * sine
    shape = (height, width)
    return (
        np.broadcast_to(right, shape),
        np.broadcast_to(rows[:, None], shape),
        np.broadcast_to(forward, shape),
    )


def sky(camera: Camera, grain: Grain, seconds: float) -> NDArray[np.uint8]:
    """Sky, uint8 [H / 2, W / 2, 3]: a gradient, and clouds that drift on a high ceiling."""
    half = (camera.size[0] // 2, camera.size[1] // 2)
    right, up, forward = rays(replace(camera, size=half))
    height = np.maximum(up, np.float32(0.03)) + np.float32(0.08)
    u = 0.045 * right / height + 0.0009 * seconds
    v = 0.06 * forward / height
    thick = grain.smooth(u, v) + 0.35 * grain.smooth(3.1 * u, 3.1 * v)
    cover = np.clip(0.30 + 0.62 * thick, 0, 1)
    cover = (cover * cover * (3 - 2 * cover) * np.clip(up * 7, 0, 1))[..., None]
    blue = np.clip(up / 0.7, 0, 1)[..., None] ** 0.65
    colour = _LOW_SKY + (_ZENITH - _LOW_SKY) * blue
    cloud = _CLOUD - np.clip(thick - 0.4, 0, 1)[..., None] * _BELLY
    painted: NDArray[np.uint8] = np.clip(colour + (cloud - colour) * cover * 0.9, 0, 255).astype(
        np.uint8
    )
    return painted
