"""Which worker, and how many: values in, values out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.placement import Policy, Scaling, State, Worker, choose, scale

A, B, C = (Worker(name, slots=1.0) for name in "abc")
POLICY = Policy(share=0.8, fewest=1, most=4, target=0.75, patience=10.0)  # 0.6 of a worker


def test_a_stream_goes_where_least_is_spoken_for() -> None:
    assert choose([A, replace(B, claimed=0.1), C], 0.2, POLICY) == "a"
    assert choose([replace(A, claimed=0.1), replace(B, measured=0.2), C], 0.2, POLICY) == "c"
    # work that nobody claimed counts as well as a claim whose frames did not come yet
    busy = [replace(A, measured=0.5), replace(B, claimed=0.4)]
    assert choose(busy, 0.1, POLICY) == "b"


def test_a_big_worker_takes_more() -> None:
    workers = [replace(A, slots=4.0, claimed=0.4, streams=4), replace(B, claimed=0.2, streams=1)]
    assert choose(workers, 0.1, POLICY) == "a"


def test_streams_that_claim_nothing_spread() -> None:
    workers = [replace(A, streams=2), replace(B, streams=1), replace(C, streams=2)]
    assert choose(workers, 0.0, POLICY) == "b"
    varied = [replace(workers[0], measured=0.01), replace(workers[1], measured=0.04), workers[2]]
    assert choose(varied, 0.0, POLICY) == "b", "the last frames of one do not count"
    full = [replace(w, claimed=0.8) for w in workers]
    assert choose(full, 0.0, POLICY) == "b", "they share what is left"


def test_streams_that_come_together_spread() -> None:
    workers = [A, replace(B, measured=0.08)]  # what the last one that ended left
    for _ in range(8):
        name = choose(workers, 0.0, POLICY)
        workers = [
            replace(w, streams=w.streams + 1, fresh=w.fresh + 1) if w.name == name else w
            for w in workers
        ]
    assert sorted(w.streams for w in workers) == [4, 4]


def test_what_does_not_fit_into_one_worker_fits_nowhere() -> None:
    workers = [replace(A, claimed=0.6), replace(B, claimed=0.6)]
    assert choose(workers, 0.2, POLICY) == "a"
    assert choose(workers, 0.21, POLICY) is None
    assert choose([replace(A, slots=2.0)], 0.81, POLICY) is None, "a stream has one frame in flight"


@pytest.mark.parametrize("state", [State.STARTING, State.DRAINING])
def test_only_ready_workers_are_given_streams(state: State) -> None:
    workers = [replace(A, state=state), replace(B, claimed=0.7, streams=9)]
    assert choose(workers, 0.0, POLICY) == "b"
    assert choose(workers, 0.2, POLICY) is None
    assert choose([A, replace(B, claimed=0.5)], 0.1, POLICY, avoid="a") == "b"
    assert choose([], 0.0, POLICY) is None


def test_workers_are_started_at_once_up_to_the_limit() -> None:
    assert scale([A], POLICY, 0.0) == Scaling(1)
    assert scale([replace(A, claimed=0.6)], POLICY, 0.0) == Scaling(1)
    assert scale([replace(A, claimed=0.61)], POLICY, 0.0) == Scaling(2, start=1)
    loaded = [replace(A, claimed=0.8), replace(B, state=State.STARTING)]
    assert scale(loaded, POLICY, 0.0) == Scaling(2), "it is on its way"
    assert scale([replace(A, measured=99.0)], POLICY, 0.0) == Scaling(4, start=3)
    assert scale([], replace(POLICY, fewest=2), 0.0) == Scaling(2, start=2)
    # the streams of a worker that drains have to go somewhere
    leaving = [replace(A, claimed=0.5, state=State.DRAINING), replace(B, claimed=0.5)]
    assert scale(leaving, POLICY, 0.0) == Scaling(2, start=1)


def test_a_worker_is_drained_when_fewer_were_enough_for_long() -> None:
    workers = [replace(A, streams=2, claimed=0.3), replace(B, streams=1, claimed=0.2), C]
    workers[2] = replace(C, streams=1, claimed=0.05)
    first = scale(workers, POLICY, 100.0)
    assert first == Scaling(1, since=100.0)
    assert scale(workers, POLICY, 109.0, first.since) == Scaling(1, since=100.0)
    assert scale(workers, POLICY, 110.0, first.since) == Scaling(1, drain=("c",), since=110.0)
    busy = [replace(w, claimed=0.6) for w in workers]
    assert scale(busy, POLICY, 109.0, first.since).since is None, "it begins anew"


def test_limits_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="3 to 2 workers; expected 1 <= fewest <= most"):
        Policy(fewest=3, most=2)
