"""The simulation against queues whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resq_core.errors import OptionError
from service.fleet import Fleet
from service.simulation import Simulation
from tests.service.costs import costs

# every frame is a keyframe and takes 40 ms: 35 of a worker's thread, and 5 beside it
ONE = Fleet(streams=1, fps=10.0, period=1, active=0.0, workers=1, cores=1, share=1.0)


def simulated(fleet: Fleet, **others: Any) -> dict[str, Any]:
    found = Simulation(costs(anchor_ms=35.0, **others), fleet).run()
    assert found["due"] == found["results"] + sum(found["drops"].values()), "a frame is missing"
    return found


def test_a_stream_alone_waits_for_nothing() -> None:
    found = simulated(ONE)
    assert set(found["latency_ms"].values()) == {40.0}
    assert (found["results"], found["drops"]) == (found["due"], {})
    assert found["due"] == pytest.approx(300, abs=1)
    assert found["utilisation"]["mean"] == pytest.approx(0.4, abs=0.01)


def test_above_one_the_excess_is_dropped() -> None:
    """A live stream whose frames take 40 ms at 50 fps: 25 of 50 are run, the rest is superseded."""
    found = Simulation(costs(anchor_ms=15.0, other_ms=25.0), replace(ONE, fps=50.0)).run()
    assert found["due"] == found["results"] + sum(found["drops"].values())
    assert found["results"] / found["due"] == pytest.approx(0.5, abs=0.01)
    assert set(found["drops"]) == {"superseded"}
    assert found["utilisation"]["mean"] == pytest.approx(1.0, abs=0.01)
    assert found["latency_ms"]["max"] <= 80.0, "the newest waits for one frame at most"


def test_one_stream_keeps_one_core_busy_at_most() -> None:
    found = Simulation(costs(anchor_ms=15.0, other_ms=25.0), replace(ONE, fps=50.0, cores=4)).run()
    assert found["utilisation"]["mean"] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("utilisation", [0.3, 0.5, 0.7])
def test_many_rare_frames_wait_as_in_an_m_d_1_queue(utilisation: float) -> None:
    """Frames of 4,000 streams that send once in 100 s come as good as at random: the mean time is
    D + rho D / (2 (1 - rho)), of Pollaczek and Khinchine."""
    streams, fps = 4000, 0.01
    service = 1000 * utilisation / (streams * fps)  # ms
    found = Simulation(
        costs(anchor_ms=service, other_ms=0.0),
        replace(ONE, streams=streams, fps=fps, seconds=400.0, seed=3),
    )
    found.run()
    mean = sum(found.latencies) / len(found.latencies)
    expected = service * (1 + utilisation / (2 * (1 - utilisation)))
    assert mean == pytest.approx(expected, rel=0.06)
    assert found.latencies[0] > 0


def test_two_cores_take_what_would_be_too_much_for_one() -> None:
    crowd = replace(ONE, streams=4, fps=10.0)  # 1.6 cores
    one, two = simulated(replace(crowd, share=1.0, cores=1)), simulated(replace(crowd, cores=2))
    assert one["refused"] == 2, "what does not fit is refused: 0.35 of a core is claimed by each"
    assert (two["refused"], two["drops"]) == (0, {})
    assert two["utilisation"]["mean"] == pytest.approx(0.8, abs=0.02)


def test_streams_spread_evenly() -> None:
    found = simulated(replace(ONE, streams=60, workers=20, cores=2))
    assert found["streams_per_worker"] == {"least": 3, "most": 3}
    assert found["refused"] == 0
    coming = simulated(replace(ONE, streams=60, workers=20, cores=2, stay=5.0))
    assert sum(coming["drops"].values()) < 0.05 * coming["due"], "only those that left"
    assert set(coming["drops"]) <= {"left"}
    assert coming["streams_per_worker"]["most"] <= 4


def test_a_lost_worker_costs_the_frames_until_it_is_noticed() -> None:
    fleet = replace(ONE, streams=40, workers=20, cores=2, lose=1, notice=2.0, back=5.0)
    found = simulated(fleet)
    # two streams at 10 fps for 2 s, and what was in flight
    assert found["drops"]["worker_lost"] == pytest.approx(40, abs=3)
    assert found["moved"] == 2
    full = simulated(replace(fleet, streams=80, share=0.7))
    assert full["moved"] == 4, "they come back when the worker does"
    assert full["drops"]["worker_lost"] == pytest.approx(4 * 10 * 5, abs=8)


def test_a_deadline_gives_up_what_is_late() -> None:
    fleet = replace(ONE, streams=2, fps=20.0, share=1.0, deadline=0.1)
    found = Simulation(costs(anchor_ms=20.0, other_ms=30.0), fleet).run()  # 2 cores of work
    assert found["latency_ms"]["max"] <= 100.0
    assert found["due"] == found["results"] + sum(found["drops"].values())


def test_the_same_seed_gives_the_same_run() -> None:
    fleet = replace(ONE, streams=10, workers=3, cores=2, stay=3.0, lose=1, seed=7)
    assert simulated(fleet) == simulated(fleet)
    assert simulated(fleet) != simulated(replace(fleet, seed=8))


def test_fleets_that_cannot_be() -> None:
    for change, words in (
        ({"lose": 1}, "1 of 1 workers are lost; expected one less than there are"),
        ({"workers": 0}, "streams, workers and their cores are 1 at least"),
        ({"seconds": 0.0}, "seconds is 0; expected more than 0"),
        ({"notice": 11.0}, "is back after 10 s; expected 11 s or more"),
        ({"streams": 10**6, "fps": 30.0}, "frames; expected 50,000,000 at most: fewer seconds"),
    ):
        with pytest.raises(OptionError, match=words):
            replace(ONE, **change)
