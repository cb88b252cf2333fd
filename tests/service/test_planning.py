"""Costs from single frames, and plans from costs, on answers that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from resq_core.errors import InputError, OptionError
from service.frame_costs import FrameCosts, WorkerTimes
from service.planning import Demand, Node, plan
from tests.service.costs import costs

GIB = 1 << 30
# T = 4 at 10 % active: (40 + 3 * 20) / 4 = 25 ms on a worker, and 5 ms beside it
DEMAND = Demand(streams=1000, fps=10.0, period=4, active=0.1, use=0.8)
NODE = Node(cores=16.0, memory=64.0 * GIB)


def test_a_plan_is_arithmetic() -> None:
    made = plan(costs(), DEMAND, replace(NODE, price=0.5))
    assert (made.worker_ms, made.cpu_ms) == (25.0, 30.0)
    assert made.cores == pytest.approx(300.0)  # 1000 streams * 10 fps * 30 ms
    # 0.8 * 16 cores / 0.3 cores; (0.8 * 64 - 1) GiB / 64 MiB
    assert made.fits == {"cores": 42, "memory": 803}
    assert (made.limit, made.per_node, made.nodes) == ("cores", 42, 24)
    assert made.price == pytest.approx(12.0)
    assert made.memory == 1000 * (64 << 20) + 24 * GIB
    assert made.inbound == pytest.approx(1000 * 10 * 50_000 * 8)
    assert made.outbound == pytest.approx(made.inbound / 10)


def test_the_tightest_of_cores_memory_and_network_decides() -> None:
    small = plan(costs(), DEMAND, replace(NODE, memory=2.0 * GIB))
    assert (small.limit, small.per_node) == ("memory", 9)  # (1.6 - 1) GiB / 64 MiB
    # 4 Mbit/s of frames a stream, 80 of 100 Mbit/s
    slow = plan(costs(), DEMAND, replace(NODE, network=100e6))
    assert (slow.limit, slow.per_node, slow.nodes) == ("network", 20, 50)


@pytest.mark.parametrize("active", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("period", [1, 4, 100])
def test_period_and_activity_move_the_mean_frame(active: float, period: int) -> None:
    demand = replace(DEMAND, active=active, period=period, fps=5.0)
    by_hand = sum(40.0 if i % period == 0 else 10.0 + 100 * active for i in range(period)) / period
    assert plan(costs(), demand, NODE).worker_ms == pytest.approx(by_hand)


def test_what_cannot_be() -> None:
    with pytest.raises(OptionError, match=r"expected fps of 32\.0 at most"):
        plan(costs(), replace(DEMAND, fps=33.0), NODE)  # 0.8 / 25 ms, one after another
    assert plan(costs(), replace(DEMAND, fps=32.0), NODE).nodes
    with pytest.raises(OptionError, match=r"its memory is too small; one stream needs 0\.30 cores"):
        plan(costs(), DEMAND, replace(NODE, memory=1.0 * GIB))
    with pytest.raises(OptionError, match="its network is too small"):
        plan(costs(), DEMAND, replace(NODE, network=1e6))
    for name, value in (("streams", 0), ("fps", 0.0), ("active", 1.1), ("use", 0.0), ("period", 0)):
        with pytest.raises(OptionError, match=f"{name.replace('active', 'activity')} is"):
            replace(DEMAND, **{name: value})
    with pytest.raises(OptionError, match="the node's cores is 0; expected more than 0"):
        Node(cores=0.0, memory=1.0)
    with pytest.raises(OptionError, match="price is -1"):
        replace(NODE, price=-1.0)


def test_assumptions_name_what_was_not_measured() -> None:
    def told(found: FrameCosts, demand: Demand = DEMAND, node: Node = NODE) -> str:
        return "\n".join(plan(found, demand, node).assumptions)

    whole = told(costs(), node=replace(NODE, network=1e9))
    assert "80 frames of street" in whole
    assert "not counted" not in whole
    assert "was not measured" not in whole
    assert "no node's network" in told(costs())
    assert "activity 0.9 was not measured: frames were 0.00 to 0.50" in told(
        costs(), replace(DEMAND, active=0.9, fps=5.0)
    )
    dumb = costs(other_ms=None, server_bytes=None, decoder_bytes=None, state_bytes=None)
    assert "processor time" in told(dumb)
    assert "memory" not in plan(dumb, DEMAND, NODE).fits


def frames(noise: float = 0.0, pauses: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """400 frames, T = 4: what `costs()` says they take."""
    random = np.random.default_rng(1)
    anchors = np.arange(400) % 4 == 0
    active = np.where(anchors, 1.0, random.uniform(0.0, 0.5, 400))
    ms = np.where(anchors, 40.0, 10.0 + 100.0 * active) * random.normal(1.0, noise, 400)
    return anchors, active, ms + 500.0 * (random.random(400) < pauses)


def test_the_line_through_single_frames() -> None:
    times = WorkerTimes.fit(*frames())
    assert (times.anchor_ms, times.residual_ms) == (40.0, pytest.approx(10.0))
    assert times.active_ms == pytest.approx(100.0)
    assert times.anchor_spread == pytest.approx([1.0] * 21, abs=1e-3)
    noisy = WorkerTimes.fit(*frames(noise=0.1, pauses=0.03))
    assert noisy.mean(4, 0.1) == pytest.approx(25.0, rel=0.1), "pauses are no cost"
    assert noisy.residual_spread[-1] > 5, "and are drawn for what they are"
    for spread in (noisy.anchor_spread, noisy.residual_spread):
        assert np.mean([spread[1:], spread[:-1]]) == pytest.approx(1.0, abs=1e-3)


def test_a_line_needs_frames_and_a_slope_needs_a_range() -> None:
    anchors, _, ms = frames()
    level = WorkerTimes.fit(anchors, np.full(400, 0.2), ms)
    assert level.active_ms == 0.0
    assert level.residual(0.9) == pytest.approx(level.residual(0.0))
    falling = WorkerTimes.fit(anchors, frames()[1], np.where(anchors, 40.0, 90 - 100 * frames()[1]))
    assert falling.active_ms == 0.0
    with pytest.raises(InputError, match="400 keyframes and 0 residual frames were measured"):
        WorkerTimes.fit(np.ones(400, bool), frames()[1], ms)


def test_processor_time_goes_before_wall_time() -> None:
    """On a machine with other work, frames seem to take three times as long."""
    anchors, active, ms = frames()
    wall = WorkerTimes.fit(anchors, active, 3 * ms)
    for points in ([(0.1, 20.0), (0.4, 50.0)], [(0.2, 30.0)]):
        found = wall.scaled(40.0, points)
        assert found.anchor_ms == 40.0
        assert (found.residual_ms, found.active_ms) == (pytest.approx(10.0), pytest.approx(100.0))


def test_costs_are_read_as_they_are_written() -> None:
    written = {"costs": costs().model_dump(mode="json"), "steps": []}
    assert FrameCosts.read(written) == costs()
    with pytest.raises(OptionError, match='there is no object "costs"'):
        FrameCosts.read([])
    for path, value, words in (
        ("frame_bytes", -1, "costs.frame_bytes: input should be greater than or equal to 0"),
        ("period", "x", "costs.period: input should be a valid integer"),
        ("extra", 1, "costs.extra: Extra inputs are not permitted"),
    ):
        with pytest.raises(OptionError, match=words):
            FrameCosts.read({"costs": written["costs"] | {path: value}})
