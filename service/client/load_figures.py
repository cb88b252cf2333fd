"""What a load on a server came to: counts of single streams, and the figures over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.messages import ResultMeta
from service.percentiles import percentiles

__all__ = ["Count", "summarize"]


@dataclass(slots=True)
class Count:
    """What became of one stream's frames for a while.

    Attributes:
        refused: code and reason, of a stream that was not let in; the rest is empty then.
        sent, results: frames.
        drops: frames without a result, by the server's reason, or `skipped`: a live frame that was
            due while as many as the server allows were on their way, and was not sent.
        seconds: for how long it sent.
        latencies: until the result came, ms, in order.
        stages: the server's share of them: ms by the stage's name, each in the same order.
        anchors, active: which of the results are ResQ keyframes; their active fractions.
        bops, baseline: bit operations, those of the policy included, and those of W8A8 frames.
        bytes_in, bytes_out: of frames sent, and of results.
        close: code and reason of the close frame, or None.
        problems: what does not add up, in words.
    """

    refused: tuple[int | str, str] | None = None
    sent: int = 0
    results: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    anchors: list[bool] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    bops: float = 0.0
    baseline: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    close: tuple[int, str] | None = None
    problems: list[str] = field(default_factory=list)

    def result(self, meta: ResultMeta, latency_ms: float, nbytes: int = 0) -> None:
        """Enter a result that came after so many milliseconds."""
        self.results += 1
        self.latencies.append(latency_ms)
        for name, ms in meta.timings.model_dump().items():
            self.stages.setdefault(name, []).append(ms)
        self.anchors.append(meta.is_anchor)
        self.active.append(meta.active_fraction)
        self.bops += meta.bops.frame + meta.bops.policy
        self.baseline += meta.bops.w8a8
        self.bytes_out += nbytes

    def drop(self, reason: str) -> None:
        """Enter a frame that got no result."""
        self.drops[reason] = self.drops.get(reason, 0) + 1

    @property
    def due(self) -> int:
        """Frames that there were: sent, or skipped."""
        return self.sent + self.drops.get("skipped", 0)

    @property
    def open(self) -> int:
        """Frames sent that have no answer yet."""
        return self.sent - self.results - sum(n for r, n in self.drops.items() if r != "skipped")


def summarize(counts: Sequence[Count]) -> dict[str, Any]:
    """Figures over streams, ready for JSON; fps and shares are of those that were let in.

    `lowest_share` is the smallest share of its frames that a stream got results for;
    `worker_ms` what results took of a worker's thread: inference, and encoding what goes out.
    """
    admitted = [count for count in counts if count.refused is None]
    refused = Counter(f"{c.refused[0]} {c.refused[1]}" for c in counts if c.refused is not None)
    stages = _together(count.stages for count in admitted)
    inside = np.sum(list(stages.values()), 0) if stages else np.zeros(0)
    worker = stages["infer"] + stages["encode"] if stages else np.zeros(0)
    anchors = np.array([is_anchor for c in admitted for is_anchor in c.anchors], bool)
    active = np.array([share for c in admitted for share in c.active])
    results = sum(count.results for count in admitted)
    baseline = sum(count.baseline for count in admitted)
    sent = sum(count.sent for count in admitted)
    return {
        "clients": len(counts),
        "admitted": len(admitted),
        "refused": dict(refused),
        "sent": sent,
        "results": results,
        "drops": dict(sum((Counter(count.drops) for count in admitted), Counter())),
        "results_per_second": sum(c.results / max(c.seconds, 1e-9) for c in admitted),
        "lowest_share": min((c.results / max(c.due, 1) for c in admitted), default=0.0),
        "latency_ms": percentiles([ms for count in admitted for ms in count.latencies]),
        "server_ms": percentiles(inside),
        "stages_ms": {name: round(float(np.median(ms)), 2) for name, ms in stages.items()},
        "worker_ms": {"anchor": _median(worker[anchors]), "residual": _median(worker[~anchors])},
        "active_fraction": _mean(active[~anchors]),
        "saving": 1 - sum(count.bops for count in admitted) / baseline if baseline else 0.0,
        "frame_bytes": round(sum(c.bytes_in for c in admitted) / max(sent, 1)),
        "result_bytes": round(sum(c.bytes_out for c in admitted) / max(results, 1)),
        "problems": [problem for count in counts for problem in count.problems],
    }


def _together(stages: Iterable[dict[str, list[float]]]) -> dict[str, np.ndarray[Any, Any]]:
    found: dict[str, list[float]] = {}
    for one in stages:
        for name, ms in one.items():
            found.setdefault(name, []).extend(ms)
    return {name: np.array(ms) for name, ms in found.items()}


def _median(values: np.ndarray[Any, Any]) -> float | None:
    return round(float(np.median(values)), 2) if len(values) else None


def _mean(values: np.ndarray[Any, Any]) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None
