"""The check of the plan against a load can fail."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.capacity import as_markdown, busy_seconds, compare, judge
from tests.service.costs import costs

# two streams at 10 fps, T = 4, 10 % active: 25 ms on a worker and 5 beside it
ROW: dict[str, Any] = {
    "active_fraction": 0.1,
    "results_per_second": 20.0,
    "results": 200,
    "sent": 200,
    "drops": {},
    "seconds": 10.0,
    "frame_bytes": 50_000,
    "result_bytes": 5_000,
    "server_ms": {"p50": 30.0, "p95": 60.0, "p99": 70.0, "max": 80.0},
    "others": 0.1,
    "server": {
        "anchor_cpu_seconds": 2.0,
        "residual_cpu_seconds": 3.0,
        "cores": 0.6,
        "server_bytes": (1 << 30) + (64 << 20),
        "decoder_bytes": 32 << 20,
    },
}


def test_a_plan_that_holds() -> None:
    found = compare(costs(), ROW, 2, 10.0)
    assert found["off"] == dict.fromkeys(found["off"], pytest.approx(0.0, abs=1e-4))
    assert found["predicted"]["worker_ms"] == 25.0
    assert (found["share"], found["simulated_share"]) == (1.0, 1.0)
    assert judge([found]) == []
    table = as_markdown({"rows": [found], "machine": {"cpu": "none", "cores": 4}})
    assert "| 2 | 100%, simulated 100% | 25.0, 25.0 (+0%) | 0.60, 0.60 (+0%) |" in table


def test_frames_without_a_result_cost_less() -> None:
    """Half of the frames get a result: 10 * 25 ms of the worker, 20 * 5 ms beside it."""
    half = ROW | {"results_per_second": 10.0, "results": 100, "drops": {"superseded": 100}}
    found = compare(costs(), half, 2, 10.0)
    assert found["predicted"]["cores"] == pytest.approx(0.35)
    assert found["share"] == 0.5


@pytest.mark.parametrize("name", ["cores", "server_bytes"])
def test_a_plan_that_is_off(name: str) -> None:
    server = ROW["server"] | {name: 1.3 * ROW["server"][name]}
    (broken,) = judge([compare(costs(), ROW | {"server": server}, 2, 10.0)])
    assert broken.startswith("2 streams: ")
    assert "expected within 15%" in broken


def test_the_machine_works() -> None:
    before = busy_seconds()
    sum(i * i for i in range(3_000_000))
    assert busy_seconds() > before
