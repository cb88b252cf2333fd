"""COCO run lengths: a mask as the lengths of its runs down the columns, zeros first.

Uncompressed, `counts` is a list of run lengths. Compressed, it is a string: from the fourth run on
each length is written as its difference from the one two runs before, in two's complement of five
bits a character, low bits first; bit 5 says that more follow, and 48 makes it printable.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_core.errors import InputError

__all__ = ["MAX_PIXELS", "Mask", "mask_from_rle", "mask_to_rle"]

Mask = NDArray[np.bool_]
"""bool [H, W]: where the object is."""

MAX_PIXELS = 2**25
"""Largest mask, in pixels."""

_FIRST, _BITS, _MORE, _SIGN = 48, 5, 0x20, 0x10
_MAX_CHARACTERS = 7  # of one number: 35 bits
_DIFFERENCES_FROM = 3


def mask_from_rle(counts: Sequence[int] | str | bytes, size: Sequence[int]) -> Mask:
    """Read a mask.

    Args:
        counts: run lengths from 0, or the compressed string.
        size: [H, W], at most `MAX_PIXELS` together.

    Returns:
        bool [H, W].

    Raises:
        InputError: the size is out of range, a run is not a whole number from 0, there are more
            runs than pixels, or the runs do not add up to H · W.
    """
    height, width = checked_size(size)
    pixels = height * width
    if isinstance(counts, (str, bytes)):
        counts = _decompress(counts, pixels + 1)
    runs = _checked_runs(counts, pixels)
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def mask_to_rle(mask: Mask, compressed: bool = False) -> dict[str, Any]:
    """Write a mask: {"size": [H, W], "counts": list of runs, or a string if compressed}.

    Raises:
        InputError: the mask is not bool [H, W], or has no pixel or too many.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InputError(f"the mask is {mask.dtype} {list(mask.shape)}; expected bool [H, W]")
    height, width = checked_size(mask.shape)
    column = mask.T.ravel()
    changes = np.flatnonzero(column[1:] != column[:-1]) + 1
    edges = [0, *changes.tolist(), column.size]
    counts = [end - start for start, end in pairwise(edges)]
    if column[0]:
        counts.insert(0, 0)
    return {"size": [height, width], "counts": _compress(counts) if compressed else counts}


def checked_size(size: Sequence[int]) -> tuple[int, int]:
    """(H, W) of a mask; InputError outside 1 to `MAX_PIXELS` pixels."""
    whole = len(size) == 2 and all(
        isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in size
    )
    if not whole or min(size) < 1 or int(size[0]) * int(size[1]) > MAX_PIXELS:
        raise InputError(
            f"the mask's size is {list(size)[:4]}; expected [H, W], whole numbers from 1 with at "
            f"most {MAX_PIXELS} pixels"
        )
    return int(size[0]), int(size[1])


def _checked_runs(counts: Sequence[int], pixels: int) -> NDArray[np.int64]:
    if len(counts) > pixels + 1:
        raise InputError(f"{len(counts)} runs for {pixels} pixels; expected at most one more")
    try:
        runs = np.asarray(counts)
    except ValueError as error:
        raise InputError("the runs are a nest of lists; expected one list of numbers") from error
    if runs.ndim != 1 or runs.dtype.kind not in "iu":
        raise InputError(f"the runs are {runs.dtype} {list(runs.shape)}; expected whole numbers")
    if runs.size and not 0 <= int(runs.min()) <= int(runs.max()) <= pixels:
        raise InputError(f"a run is outside 0 to {pixels}, the number of pixels")
    runs = runs.astype(np.int64)
    if int(runs.sum()) != pixels:
        raise InputError(f"the runs cover {int(runs.sum())} pixels; the size says {pixels}")
    return runs


def _decompress(text: str | bytes, most: int) -> list[int]:
    codes = text.encode("utf-8", "replace") if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - _FIRST
        if not 0 <= bits < 2 * _MORE or shift >= _BITS * _MAX_CHARACTERS:
            raise InputError(
                f"compressed run {len(counts)} is malformed; expected characters 48 to 111, at "
                f"most {_MAX_CHARACTERS} for each run"
            )
        value |= (bits & (_MORE - 1)) << shift
        shift += _BITS
        if bits & _MORE:
            continue
        if bits & _SIGN:
            value -= 1 << shift
        if len(counts) >= _DIFFERENCES_FROM:
            value += counts[-2]
        counts.append(value)
        value = shift = 0
        if len(counts) > most:
            raise InputError(f"more than {most} compressed runs; expected at most one per pixel")
    if shift:
        raise InputError("the compressed runs end within a number")
    return counts


def _compress(counts: Sequence[int]) -> str:
    codes = bytearray()
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i >= _DIFFERENCES_FROM else count
        more = True
        while more:
            bits = value & (_MORE - 1)
            value >>= _BITS
            more = value != (-1 if bits & _SIGN else 0)
            codes.append(_FIRST + bits + (_MORE if more else 0))
    return codes.decode("ascii")
