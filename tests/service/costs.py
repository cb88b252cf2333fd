"""Costs of frames that are easy to reckon with, for plans and simulations."""

from __future__ import annotations

from typing import Any

from service.frame_costs import FrameCosts, WorkerTimes

__all__ = ["LEVEL", "costs"]

LEVEL = (1.0, 1.0)  # every frame takes the mean


def costs(
    anchor_ms: float = 40.0, residual_ms: float = 10.0, active_ms: float = 100.0, **others: Any
) -> FrameCosts:
    """A keyframe takes 40 ms, a residual frame 10 ms and 1 ms for each percent that is active."""
    worker = WorkerTimes(
        anchor_ms=anchor_ms,
        residual_ms=residual_ms,
        active_ms=active_ms,
        active=(0.0, 0.1, 0.5),
        anchor_spread=LEVEL,
        residual_spread=LEVEL,
        frames=80,
    )
    known: dict[str, Any] = {
        "processor": "a processor",
        "cores": 4,
        "memory_bytes": float(16 << 30),
        "other_ms": 5.0,
        "server_bytes": float(1 << 30),
        "decoder_bytes": float(32 << 20),
        "state_bytes": float(32 << 20),
    }
    return FrameCosts(
        model="street",
        precision="W8A8->W8A{0,4,8}",
        period=4,
        worker=worker,
        frame_bytes=50_000.0,
        result_bytes=5_000.0,
        **(known | others),
    )
