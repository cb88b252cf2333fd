"""From what a load came to, what its frames cost the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.client.load_figures import Count
from service.frame_costs import FrameCosts, WorkerTimes
from service.messages import Started

__all__ = ["Run", "costs_of"]

Run = tuple[Sequence[Count], dict[str, Any]]
"""The counts of a step's streams, and what `Load.step` returned."""


def costs_of(started: Started, runs: Sequence[Run]) -> FrameCosts:
    """Costs of the frames of one or more steps on one server, whose streams ran with the same
    options.

    What the server's processor time holds beside the workers' is spread over the frames evenly.

    Raises:
        InputError: too few frames, see `WorkerTimes.fit`.
    """
    counts = [count for run, _ in runs for count in run]
    figures = [figure for _, figure in runs]
    anchors = np.array([is_anchor for count in counts for is_anchor in count.anchors], bool)
    active = np.array([share for count in counts for share in count.active])
    ms = np.array(
        [
            sum(both)
            for count in counts
            if count.results
            for both in zip(count.stages["infer"], count.stages["encode"], strict=True)
        ]
    )
    worker = WorkerTimes.fit(anchors, active, ms)
    sent = sum(count.sent for count in counts)
    costs = FrameCosts(
        model=started.model,
        precision=started.precision,
        period=started.period,
        worker=worker,
        frame_bytes=sum(count.bytes_in for count in counts) / sent,
        result_bytes=sum(count.bytes_out for count in counts) / len(ms),
    )
    servers = [figure["server"] for figure in figures if figure["server"] is not None]
    if len(servers) < len(figures):
        return costs
    busy = sum(s["anchor_cpu_seconds"] + s["residual_cpu_seconds"] for s in servers)
    spent = sum(f["server"]["cores"] * f["seconds"] for f in figures)
    if busy > 0:
        worker = worker.scaled(*_processor_ms(runs))
    return costs.model_copy(
        update={
            "worker": worker,
            "other_ms": max(0.0, 1000 * (spent - busy) / len(ms)),
            "server_bytes": min(s["server_bytes"] - s["all_state_bytes"] for s in servers),
            "decoder_bytes": max(s["decoder_bytes"] for s in servers),
            "state_bytes": max(s["state_bytes"] for s in servers),
        }
    )


def _processor_ms(runs: Sequence[Run]) -> tuple[float, list[tuple[float, float]]]:
    """Of a keyframe over all runs; of a residual frame in each, beside its active fraction."""
    anchors, spent = 0, 0.0
    points: list[tuple[float, float]] = []
    for counts, figures in runs:
        here = sum(sum(count.anchors) for count in counts)
        residuals = sum(count.results for count in counts) - here
        anchors, spent = anchors + here, spent + figures["server"]["anchor_cpu_seconds"]
        if residuals:
            each = figures["server"]["residual_cpu_seconds"] / residuals
            points.append((figures["active_fraction"], 1000 * each))
    return 1000 * spent / anchors, points
