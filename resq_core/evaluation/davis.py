"""The DAVIS measures: region similarity J, boundary accuracy F, and their statistics over a clip.

Defined in Perazzi et al., CVPR 2016. Masks are bool [H, W], one object at a time; a clip with
several objects is scored object by object. The benchmark leaves out the first frame, whose mask is
given, and the last one: that is the caller's choice here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resq_core.errors import InputError, OptionError

__all__ = ["TOLERANCE", "Statistics", "boundary", "boundary_accuracy", "region_similarity"]

Mask = NDArray[np.bool_]

TOLERANCE = 0.008
"""How far boundaries may lie apart and still match, in diagonals of the picture."""

_BINS = 4


def region_similarity(predicted: Mask, annotated: Mask) -> float:
    """J: intersection over union, 0 to 1; two empty masks agree.

    Raises InputError where the masks are not bool [H, W] of one size.
    """
    _check(predicted, annotated)
    union = np.count_nonzero(predicted | annotated)
    return np.count_nonzero(predicted & annotated) / union if union else 1.0


def boundary(mask: Mask) -> Mask:
    """Pixels that differ from their neighbour to the right, below, or right below; bool [H, W].

    The picture's own edge is no boundary.
    """
    beyond = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, across = beyond[:-1, 1:], beyond[1:, :-1], beyond[1:, 1:]
    result: Mask = (mask != right) | (mask != below) | (mask != across)
    return result


def boundary_accuracy(predicted: Mask, annotated: Mask, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of the precision and recall of boundary pixels, 0 to 1.

    A boundary pixel matches if the other boundary has one within `tolerance` · diagonal, rounded
    up to whole pixels. Without any boundary in one mask only, F is 0; in both, 1.

    Raises InputError where the masks are not bool [H, W] of one size, and OptionError for a
    tolerance outside 0 to 1.
    """
    _check(predicted, annotated)
    if not 0 <= tolerance <= 1:
        raise OptionError(f"tolerance is {tolerance}; expected 0 to 1 diagonals")
    radius = math.ceil(tolerance * math.hypot(*annotated.shape))
    ours, theirs = boundary(predicted), boundary(annotated)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision = np.count_nonzero(ours & _dilated(theirs, radius)) / np.count_nonzero(ours)
    recall = np.count_nonzero(theirs & _dilated(ours, radius)) / np.count_nonzero(theirs)
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What DAVIS reports of a measure over the frames of a clip; frames that are NaN are left out.

    Attributes:
        mean: 0 to 1.
        recall: share of frames above 0.5.
        decay: mean over the first quarter of the frames minus that over the last; frames on the
            border of two quarters count in both.
    """

    mean: float
    recall: float
    decay: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.floating]) -> Statistics:
        """Statistics of one value per frame, in order.

        Raises InputError without any number.
        """
        series = np.asarray(values, np.float64)
        if series.ndim != 1 or np.isnan(series).all():
            raise InputError(f"values of shape {list(series.shape)}; expected a number per frame")
        borders = np.floor(np.linspace(0, len(series) - 1, _BINS + 1) + 0.5 + 1e-10).astype(int)
        first, last = series[: borders[1] + 1], series[borders[-2] :]
        known = series[~np.isnan(series)]
        return cls(float(known.mean()), float((known > 0.5).mean()), _mean(first) - _mean(last))


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _dilated(mask: Mask, radius: int) -> Mask:
    """Pixels within `radius` (Euclidean) of one that is set, a row of the disc at a time."""
    height = mask.shape[0]
    result = np.zeros_like(mask)
    for shift in range(-min(radius, height - 1), min(radius, height - 1) + 1):
        wide = _widened(mask, math.isqrt(radius**2 - shift**2))
        source = slice(max(-shift, 0), height - max(shift, 0))
        target = slice(max(shift, 0), height + min(shift, 0))
        result[target] |= wide[source]
    return result


def _widened(mask: Mask, reach: int) -> Mask:
    """Pixels with one that is set at most `reach` columns away."""
    before = np.pad(np.cumsum(mask, axis=1), ((0, 0), (reach + 1, reach)), mode="edge")
    before[:, : reach + 1] = 0
    result: Mask = before[:, 2 * reach + 1 :] > before[:, : -(2 * reach + 1)]
    return result


def _check(predicted: Mask, annotated: Mask) -> None:
    for what, mask in (("predicted", predicted), ("annotated", annotated)):
        if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size:
            raise InputError(
                f"the {what} mask is {mask.dtype} {list(mask.shape)}; expected bool [H, W]"
            )
    if predicted.shape != annotated.shape:
        raise InputError(f"the masks are {predicted.shape} and {annotated.shape} (H, W)")
