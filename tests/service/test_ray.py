"""Streams on workers of Ray: two workers, real processes, killed and drained under load."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from service.client import Result, connect
from service.config import Config
from service.engine import StreamSpec
from service.messages import Drop, Ended, Reset, StreamStart
from service.server import Server, running
from tests.service.conftest import colour, encoded
from tests.service.test_clips import clip_bytes, finished, post
from tests.service.test_decoder import packets
from tests.service.test_streams import eventually

if TYPE_CHECKING:
    from tests.service.raying import Cluster, KnobbedEngine

Serve = Callable[..., str]
PERIOD = 4


@pytest.fixture
def engine(cluster: Cluster) -> Iterator[KnobbedEngine]:
    """Two workers; what a test broke is whole again for the next."""
    with closing(cluster.engine(workers=2)) as engine:
        yield engine


@dataclass
class Log:
    """What a client got."""

    results: list[Result] = field(default_factory=list)
    drops: dict[int, str] = field(default_factory=dict)
    resets: list[Reset] = field(default_factory=list)
    ended: Ended | None = None


async def stream(
    log: Log, address: str, frames: list[bytes], enough: Callable[[], bool], **options: Any
) -> None:
    """Send frames over and over until there is enough; every one has to be accounted for."""
    sent = 0
    start = StreamStart(mode="lossless", period=PERIOD, **options)
    async with (
        asyncio.timeout(60),
        connect(address, start) as client,
        asyncio.TaskGroup() as group,
    ):

        async def send() -> None:
            nonlocal sent
            while not enough():
                await client.send(frames[sent % len(frames)])
                sent += 1
            await client.end()

        group.create_task(send())
        async for answer in client:
            if isinstance(answer, Result):
                log.results.append(answer)
            elif isinstance(answer, Drop):
                log.drops[answer.seq] = answer.reason
            elif isinstance(answer, Reset):
                log.resets.append(answer)
            elif isinstance(answer, Ended):
                log.ended = answer
    assert log.ended is not None
    seqs = sorted([*(r.meta.seq for r in log.results), *log.drops])
    assert seqs == list(range(sent)), "each frame is answered exactly once"
    assert log.ended.received == sent == log.ended.results + log.ended.drops
    assert log.ended.anchors == sum(r.meta.is_anchor for r in log.results)


async def started(serve: Serve, **settings: Any) -> str:
    """The address of a server that has warmed up: streams that open from now on are a test's."""
    address = serve(**settings)
    await eventually(lambda: httpx.get(f"{address}/readyz").status_code == 200, 30)
    return address


def is_of(shift: int, result: Result) -> bool:
    mask = result.mask
    assert mask is not None
    return bool(mask[24, 5] == shift and mask[24, 60] == (shift + 1) % 3)


def moved(log: Log) -> bool:
    return bool(log.resets) and len(log.results) >= 25


def pid_of(engine: KnobbedEngine, name: str) -> int:
    engine.share({})
    [pid] = [m.pid for m in engine.members if m.worker.name == name]
    return pid


async def test_a_killed_worker_costs_frames_not_streams(
    serve: Serve, engine: KnobbedEngine
) -> None:
    address = await started(serve)
    probes = len(engine.opened)
    engine.seconds = 0.01
    killed: list[str] = []
    logs = [Log() for _ in range(4)]

    async def kill() -> None:
        await eventually(lambda: all(len(s.starts) > 5 for s in engine.opened[probes:]), 30)
        streams = engine.opened[probes:]
        names = {s.place.name for s in streams}
        assert len(names) == 2, "they spread"
        killed.append(streams[0].place.name)
        os.kill(pid_of(engine, killed[0]), signal.SIGKILL)

    async with asyncio.TaskGroup() as group:
        for n, log in enumerate(logs):
            frames = [encoded(colour(n % 3))]
            group.create_task(stream(log, address, frames, lambda: sum(map(moved, logs)) == 2))
        await eventually(lambda: len(engine.opened) >= probes + 4, 30)
        await kill()
    for number, log in enumerate(logs):
        assert all(is_of(number % 3, result) for result in log.results), "states never mix"
    lost = [log for log in logs if log.resets]
    assert len(lost) == 2, "those of the other worker saw nothing"
    for log in lost:
        [reset] = log.resets
        assert (reset.reason, reset.idr) == ("worker_lost", False)
        assert set(log.drops.values()) == {"worker_lost"}
        reasons = [r.meta.anchor_reason for r in log.results]
        assert reasons.count("worker_lost") == 1
        again = log.results[reasons.index("worker_lost") :]
        assert [r.meta.is_anchor for r in again[:5]] == [True, False, False, False, True]
        indices = [r.meta.index for r in log.results]
        assert indices == list(range(len(indices))), "one stream, on two workers"
    for log in logs:
        assert log.resets or not log.drops


async def test_video_goes_on_at_an_idr(serve: Serve, engine: KnobbedEngine) -> None:
    address = await started(serve)
    before = len(engine.opened)
    engine.seconds = 0.02
    units = packets("h264", 12)  # an IDR every fourth

    async def kill() -> None:
        await eventually(
            lambda: len(engine.opened) > before and len(engine.opened[-1].starts) > 5, 30
        )
        os.kill(pid_of(engine, engine.opened[-1].place.name), signal.SIGKILL)

    log = Log()
    async with asyncio.TaskGroup() as group:
        group.create_task(stream(log, address, units, lambda: moved(log), input="h264"))
        group.create_task(kill())
    assert [(reset.reason, reset.idr) for reset in log.resets] == [("worker_lost", True)]
    assert set(log.drops.values()) <= {"worker_lost", "waiting_for_idr"}
    last = max(log.drops)
    assert log.drops[last] in ("waiting_for_idr", "worker_lost")
    [first] = [r for r in log.results if r.meta.anchor_reason == "worker_lost"]
    assert first.meta.seq % 4 == 0, "an IDR"


async def test_a_drained_worker_ends_and_loses_no_result(
    serve: Serve, engine: KnobbedEngine
) -> None:
    import ray

    address = await started(serve)
    before = len(engine.opened)

    async def drain() -> str:
        await eventually(
            lambda: len(engine.opened) > before and len(engine.opened[-1].starts) > 5, 30
        )
        name: str = engine.opened[-1].place.name
        assert await asyncio.to_thread(ray.get, engine.roster.drain.remote(name))
        return name

    log = Log()
    async with asyncio.TaskGroup() as group:
        group.create_task(stream(log, address, [encoded(colour(1))], lambda: moved(log)))
        draining = group.create_task(drain())
    assert [reset.reason for reset in log.resets] == ["worker_drained"]
    assert set(log.drops.values()) <= {"worker_drained"}
    assert all(is_of(1, result) for result in log.results)
    assert engine.opened[-1].place.name != draining.result()

    def gone() -> bool:
        engine.share({})
        return draining.result() not in {m.worker.name for m in engine.members}

    await eventually(gone, 30)


async def test_two_gateways_know_of_each_other_and_the_roster_recovers(
    serve: Serve, engine: KnobbedEngine, cluster: Cluster, tmp_path: Path
) -> None:
    import ray

    first = await started(serve)
    config = Config(model="tiny", threads=1, decoders=0, data_dir=tmp_path / "second")
    other = cluster.engine(workers=2)

    def ids(address: str) -> set[str]:
        return {s["id"] for s in httpx.get(f"{address}/v1/streams").json()["streams"]}

    with closing(other), running(Server(config, other, log_level="warning")) as second:
        async with connect(first, StreamStart(id="here")), connect(second, StreamStart(id="there")):
            await eventually(lambda: ids(first) == ids(second) == {"here", "there"}, 30)
            found = httpx.get(f"{second}/v1/streams/here").json()
            assert (found["state"], found["model"]) == ("running", "tiny")
            names = {engine.opened[-1].place.name, other.opened[-1].place.name}
            assert len(names) == 2, "each gateway sees what the other put there"
            ray.kill(engine.roster, no_restart=False)
            async with connect(first, StreamStart(id="third")) as third:
                await third.send(encoded(colour(2)))
                answer = await anext(aiter(third))
                assert isinstance(answer, Result)
                await eventually(lambda: ids(second) == {"here", "there", "third"}, 30)


def test_streams_spread_as_soon_as_others_have_ended(engine: KnobbedEngine) -> None:
    engine.seconds = 0.03
    picture = np.zeros((48, 64, 3), np.uint8)
    first = [engine.open(StreamSpec("tiny")) for _ in range(2)]
    for stream, frames in zip(first, (50, 3), strict=True):
        for _ in range(frames):
            stream.step(picture, False, False, None)

    def loads() -> list[float]:
        engine.share({})
        return sorted(member.worker.measured for member in engine.members)

    deadline = time.monotonic() + 10
    while loads()[1] < 5 * loads()[0] or loads()[0] == 0:
        assert time.monotonic() < deadline, loads()
    for stream in first:
        stream.close()
    again = [engine.open(StreamSpec("tiny")) for _ in range(2)]
    assert len({stream.place.name for stream in again}) == 2
    for stream in again:
        stream.close()


def test_a_stream_that_is_being_opened_counts_already(engine: KnobbedEngine) -> None:
    first = engine.place(None)
    engine.share({})  # it knows of no open stream
    second = engine.place(None)
    assert first.name != second.name
    for place in (first, second):
        engine.on_left(place)


def test_a_clip_runs_on_all_workers_and_goes_on_without_one(
    serve: Serve, engine: KnobbedEngine
) -> None:
    address = serve()
    engine.seconds = 0.1
    job = post(address, clip_bytes(48), period=4).json()["id"]
    lines = f"{address}/v1/clips/{job}/results"
    deadline = time.monotonic() + 30
    while len(httpx.get(lines).text.splitlines()) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    while True:  # between two of its pieces a worker has none
        busy = [s for s in engine.opened if s.starts and s.open]
        if len({s.place.name for s in busy}) == 2:
            break
        assert httpx.get(f"{address}/v1/clips/{job}").json()["state"] == "running"
    os.kill(pid_of(engine, busy[0].place.name), signal.SIGKILL)
    assert finished(address, job)["state"] == "done"
    found = [json.loads(line) for line in httpx.get(lines).text.splitlines()]
    assert [line["index"] for line in found] == list(range(48))
    assert [line["is_anchor"] for line in found] == [n % 4 == 0 for n in range(48)]
    reasons = [line["anchor_reason"] for line in found if line["is_anchor"]]
    assert sorted(reasons) == ["first_frame", *["period"] * 10, "restart"]
