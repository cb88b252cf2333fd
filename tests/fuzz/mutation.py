"""Bytes and messages that are nearly right: seeded, so that a finding can be had again."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

__all__ = ["mutated", "mutated_object"]

_LENGTHS = (0, 1, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_WORDS = ("", "x", "street", "\u0000", "\ud800", "é" * 70, "../../etc/passwd", "9" * 400, "null")


def mutated(data: bytes, rng: Random, other: bytes = b"") -> bytes:
    """Some bytes with one to eight damages; `other` is what pieces are taken from."""
    damaged = bytearray(data)
    for _ in range(1 + int(rng.random() ** 3 * 8)):
        rng.choice(_DAMAGES)(damaged, rng, other)
    return bytes(damaged)


def _place(data: bytearray, rng: Random) -> int:
    """An offset; one in three is near the beginning, where headers are."""
    return rng.randrange(min(len(data), 64) if rng.random() < 0.3 else len(data))


def _flip(data: bytearray, rng: Random, _: bytes) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _noise(data: bytearray, rng: Random, _: bytes) -> None:
    if data:
        start = _place(data, rng)
        stop = min(len(data), start + rng.randrange(1, 64))
        data[start:stop] = rng.randbytes(stop - start)


def _cut(data: bytearray, rng: Random, _: bytes) -> None:
    if data:
        del data[_place(data, rng) :]


def _remove(data: bytearray, rng: Random, _: bytes) -> None:
    if data:
        start = _place(data, rng)
        del data[start : start + rng.randrange(1, 200)]


def _repeat(data: bytearray, rng: Random, _: bytes) -> None:
    if data:
        start = _place(data, rng)
        data[start:start] = data[start : start + rng.randrange(1, 200)] * rng.randrange(1, 5)


def _splice(data: bytearray, rng: Random, other: bytes) -> None:
    if data and other:
        start, source = _place(data, rng), rng.randrange(len(other))
        piece = other[source : source + rng.randrange(1, 500)]
        data[start : start + (len(piece) if rng.random() < 0.5 else 0)] = piece


def _length(data: bytearray, rng: Random, _: bytes) -> None:
    """Another number where a length may stand, in either order of bytes."""
    form = rng.choice("<>") + rng.choice("BHI")
    size = struct.calcsize(form)
    if len(data) >= size:
        start = min(_place(data, rng), len(data) - size)
        value = rng.choice(_LENGTHS) % (1 << 8 * size)
        data[start : start + size] = struct.pack(form, value)


_DAMAGES: tuple[Callable[[bytearray, Random, bytes], None], ...] = (
    _flip,
    _flip,
    _noise,
    _cut,
    _remove,
    _repeat,
    _splice,
    _length,
)


def mutated_object(value: Mapping[str, Any], rng: Random) -> str:
    """A JSON object as text, some of its keys and values changed; in rare cases no JSON."""
    changed = dict(value)
    for _ in range(rng.randrange(4)):
        keys = list(changed)
        key = rng.choice([*keys, "type", "id", "x" * rng.randrange(1, 90)])
        if rng.random() < 0.2:
            changed.pop(key, None)
        elif isinstance(changed.get(key), dict) and rng.random() < 0.7:
            changed[key] = json.loads(mutated_object(changed[key], rng))
        else:
            changed[key] = _junk(rng, 3)
    return json.dumps(changed)


def _junk(rng: Random, depth: int) -> Any:
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return rng.choice((0, 1, -1, 2**31, 2**63, 2**64, 10**30, rng.randrange(-9, 300)))
    if kind == 1:
        return rng.choice((0.0, -0.5, 1e-320, 1e308, float("inf"), float("nan"), rng.random()))
    if kind == 2:
        return rng.choice((True, False, None))
    if kind in (3, 4, 5):
        return rng.choice((*_WORDS, "live", "lossless", "h264", "rgb", "zlib", "png", "relative"))
    if kind in (6, 7):
        return [_junk(rng, depth - 1) for _ in range(rng.randrange(5))]
    names = ("box", "rle", "id", "size", "counts", "mask", "kind", "shape", "png", "objects")
    return {rng.choice(names): _junk(rng, depth - 1) for _ in range(rng.randrange(4))}
