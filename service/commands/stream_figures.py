"""The figures of a running stream, for the terminal and for programs."""

from __future__ import annotations

import time
from collections import deque
from statistics import mean, median
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from service.client import FrameResult, Stream

__all__ = ["StreamFigures"]

_LATELY = 200  # results


class StreamFigures:
    """Sums and recent means over the results of a stream."""

    def __init__(self) -> None:
        self.results = self.anchors = 0
        self._began = self._last = time.perf_counter()
        self._bops = self._baseline = 0
        self._bits = 0.0
        self._active: deque[float] = deque(maxlen=_LATELY)
        self._latency: deque[float] = deque(maxlen=_LATELY)

    def add(self, result: FrameResult) -> None:
        """Count a result."""
        self._last = time.perf_counter()
        self.results += 1
        self.anchors += result.is_anchor
        bops = result.meta.bops
        self._bops += bops.frame + bops.policy
        self._baseline += bops.w8a8
        self._bits += result.mean_bits
        self._active.append(result.meta.active_fraction)
        self._latency.append(result.latency_ms)

    @property
    def fps(self) -> float:
        """Results per second, from the start to the last one."""
        return self.results / max(self._last - self._began, 1e-9)

    @property
    def saving(self) -> float:
        """1 - BOPs / BOPs of W8A8 frames, of all results."""
        return 1 - self._bops / self._baseline if self._baseline else 0.0

    def summary(self, stream: Stream) -> dict[str, Any]:
        """Everything, as JSON holds it; latencies are those of the last 200 results."""
        started, drops = stream.started, stream.drops
        middle, late = self._latencies()
        return {
            "source": stream.source.name,
            "model": started.model,
            "precision": started.precision,
            "period": started.period,
            "threshold": started.threshold,
            "mode": started.mode,
            "results": self.results,
            "drops": drops.total(),
            "drop_reasons": dict(drops),
            "anchors": self.anchors,
            "fps": round(self.fps, 2),
            "bop_saving": round(self.saving, 4),
            "mean_bits": round(self._bits / max(self.results, 1), 4),
            "latency_ms": {"median": round(middle, 1), "p95": round(late, 1)},
        }

    def table(self, stream: Stream) -> Table:
        """The same, for people."""
        started, drops = stream.started, stream.drops
        n, (middle, late) = max(self.results, 1), self._latencies()
        title = f"{stream.source.name}: {started.model} {started.precision} T={started.period}"
        table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
        for name in ("results", "fps", "BOPs saved", "bits", "active", "latency", "dropped"):
            table.add_column(name, no_wrap=name != "dropped")
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()))
        table.add_row(
            f"{self.results}",
            f"{self.fps:.1f}",
            f"{self.saving:.1%}",
            f"{self._bits / n:.2f}",
            f"{mean(self._active or [0.0]):.1%}",
            f"{middle:.0f} ms, p95 {late:.0f}",
            reasons or "none",
        )
        return table

    def _latencies(self) -> tuple[float, float]:
        latest = list(self._latency) or [0.0]
        return median(latest), float(np.percentile(latest, 95))
