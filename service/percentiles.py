"""How times are summed up, everywhere in the same way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["percentiles"]


def percentiles(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """p50, p95, p99 and max, to a tenth; empty of nothing."""
    if not len(values):
        return {}
    found = np.percentile(values, (50, 95, 99, 100))
    names = ("p50", "p95", "p99", "max")
    return {name: round(float(value), 1) for name, value in zip(names, found, strict=True)}
