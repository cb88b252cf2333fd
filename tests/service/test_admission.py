"""Declared rates on a real server: admitted by what frames are measured to take, or refused."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.client import connect
from service.degrade import Effects
from service.engine import StreamSpec
from service.intake import Ready
from service.messages import Outputs, ResultMeta, StreamStart, StreamUpdate
from service.protocol import Close, Flags
from service.stepper import Stepper
from tests.service.conftest import SlowEngine, colour, encoded
from tests.service.test_resume import image, result, text
from tests.service.test_server import wait_ready
from tests.service.test_streams import (
    Result,
    ended,
    eventually,
    metric,
    raw,
    talk,
    until_closed,
)

Serve = Callable[..., str]
START = {"type": "stream.start", "outputs": {"mask": "none"}}


async def ready(serve: Serve, engine: SlowEngine, **settings: Any) -> str:
    """A server whose frames take 100 ms and more, which it has found out."""
    engine.seconds = 0.1
    address = serve(**settings)
    await asyncio.to_thread(wait_ready, address)
    return address


async def most(address: str) -> float:
    """The rate that would fit now, as the server says: it knows how fast this machine is."""
    async with raw(address, START | {"fps": 240}) as socket:
        messages, _, _ = await until_closed(socket)
    found = re.search(r"up to ([0-9.]+) would fit", messages[0]["message"])
    assert found is not None, messages
    return float(found[1])


def load(address: str) -> dict[str, float]:
    found: dict[str, float] = httpx.get(f"{address}/v1/streams").json()["load"]
    return found


async def test_a_rate_that_does_not_fit_is_refused_with_the_reason(
    serve: Serve, engine: SlowEngine
) -> None:
    address = await ready(serve, engine)
    fps = 0.7 * await most(address)
    async with raw(address, START | {"fps": fps}) as first:
        assert (await text(first))["fps"] == fps
        reserved = load(address)["reserved"]
        assert reserved == pytest.approx(0.7 * 0.8, rel=0.1)
        assert metric(address, "resq_load_reserved") == pytest.approx(reserved, abs=1e-3)
        async with raw(address, START | {"fps": fps}) as second:
            messages, code, reason = await until_closed(second)
        (error,) = messages
        assert (error["code"], error["field"], error["fatal"]) == ("over_capacity", "fps", True)
        assert "would fit" in error["message"]
        assert (code, reason) == (Close.FULL, "over_capacity")
        lines = httpx.get(f"{address}/metrics").text
        assert 'resq_admission_rejects_total{reason="capacity"} 2.0' in lines
        async with raw(address, START) as best_effort:  # it claims nothing
            assert (await text(best_effort))["fps"] is None
            await best_effort.send(image(0))
            await result(best_effort)
        await first.send('{"type":"stream.end"}')
        await until_closed(first)
    assert load(address)["reserved"] == 0
    async with raw(address, START | {"fps": 0.7 * await most(address)}) as second:
        await text(second)
    assert metric(address, "resq_capacity_workers") == pytest.approx(0.8)


async def test_a_model_without_figures_is_measured_first(serve: Serve, engine: SlowEngine) -> None:
    address = await ready(serve, engine)
    async with raw(address, START | {"model": "marker", "fps": 200}) as socket:
        messages, code, _ = await until_closed(socket)
    assert re.search(r"200 frames per second need \d\d", messages[0]["message"])
    assert code == Close.FULL
    assert engine.held == 0


async def test_a_deadline_that_no_frame_can_keep_is_refused(
    serve: Serve, engine: SlowEngine
) -> None:
    address = await ready(serve, engine)
    async with raw(address, START | {"deadline_ms": 20}) as socket:
        messages, code, _ = await until_closed(socket)
    assert (messages[0]["code"], messages[0]["field"]) == ("over_capacity", "deadline_ms")
    assert code == Close.FULL


@pytest.mark.parametrize("fps", [0, -1, 241, "10", float("nan")])
async def test_rates_have_a_range(serve: Serve, fps: Any) -> None:
    async with raw(serve(), START | {"fps": fps}) as socket:
        messages, code, _ = await until_closed(socket)
    assert "fps" in messages[0]["message"]
    assert code in (Close.BAD_OPTIONS, Close.VIOLATION)


async def test_a_shorter_period_is_refused_where_it_does_not_fit(
    serve: Serve, engine: SlowEngine
) -> None:
    engine.anchor_seconds = 0.3
    address = serve()
    await asyncio.to_thread(wait_ready, address)
    start = START | {"mode": "lossless", "period": 50, "fps": 3}
    async with raw(address, start) as socket:
        await text(socket)
        await socket.send('{"type":"stream.update","period":1}')
        error = await text(socket)
        assert (error["code"], error["field"], error["fatal"]) == ("over_capacity", "period", False)
        for seq in range(2):
            await socket.send(image(seq))
            answer = await result(socket)
        assert answer.meta["anchor_reason"] is None, "the old period is in force"
        await socket.send('{"type":"stream.update","period":40}')
        await socket.send(image(2))
        await result(socket)
        (shown,) = httpx.get(f"{address}/v1/streams").json()["streams"]
        assert shown["period"] == 40


async def test_declared_frames_go_before_the_others(serve: Serve, engine: SlowEngine) -> None:
    """One worker, and others that send all they can: once a declared frame is there, the one at
    hand is finished, and no more than one that was about to begin."""
    address = await ready(serve, engine, credits=8)
    greedy = StreamStart(mode="lossless", outputs=Outputs(mask="none"))
    declared = StreamStart(mode="lossless", fps=2, outputs=Outputs(mask="none"))
    async with connect(address, declared) as stream:
        mine = engine.opened[-1]
        picture = encoded(colour(0))
        others = [asyncio.create_task(talk(address, greedy, [picture] * 20)) for _ in range(4)]
        await eventually(lambda: len([s for s in engine.opened[-4:] if s.starts]) == 4)
        before = []
        for i in range(5):
            await stream.send(picture)
            while not isinstance(answer := await stream.receive(), Result):
                pass
            there = mine.starts[i] - answer.meta.timings.queue / 1000
            starts = [t for s in engine.opened if s is not mine for t in s.starts]
            before.append(sum(there < t < mine.starts[i] for t in starts))
            await asyncio.sleep(0.5)  # the rate that was declared
    assert sorted(before)[2] <= 1, before
    for answers in await asyncio.gather(*others):
        assert ended(answers).results == 20


async def test_degraded_streams_are_told_so_and_get_back_what_they_asked_for(
    serve: Serve, engine: SlowEngine
) -> None:
    address = await ready(serve, engine, degrade="rate")
    fps = 0.7 * await most(address) / 2  # with every second frame twice as many would fit
    options = StreamStart(mode="live", fps=fps, outputs=Outputs(mask="none"))
    async with connect(address, options) as stream:

        async def one() -> Any:
            await stream.send(encoded(colour(0)))
            while True:
                answer = await stream.receive()
                if isinstance(answer, Result) or getattr(answer, "reason", None) == "degraded":
                    return answer

        assert (await one()).meta.degraded is None
        async with raw(address, START | {"fps": fps * 0.99}) as second:
            assert (await text(second))["type"] == "stream.started"
            assert metric(address, "resq_degradation_level") == 1
            answers = [await one() for _ in range(6)]
            found = [a for a in answers if isinstance(a, Result)]
            assert len(found) == 3, "every second frame"
            degraded = found[-1].meta.degraded
            assert degraded is not None
            assert (degraded.level, degraded.one_of) == (1, 2)
            assert metric(address, "resq_frames_dropped_total") == 3
            shown = {s["fps"]: s for s in httpx.get(f"{address}/v1/streams").json()["streams"]}
            assert shown[fps]["degradation"] == 1
            async with raw(address, START) as best_effort:  # nothing was promised, nothing taken
                await text(best_effort)
                await best_effort.send(image(0))
                assert (await result(best_effort)).meta["degraded"] is None
        await eventually(lambda: metric(address, "resq_degradation_level") == 0, 60)
        assert (await one()).meta.degraded is None


def test_a_degraded_stream_keeps_in_mind_what_its_client_wants(engine: SlowEngine) -> None:
    stream = engine.open(StreamSpec("tiny", period=4, threshold=0.1))
    stepper = Stepper(stream, StreamStart(outputs=Outputs(mask="none")))
    more = Effects(level=2, period=4, threshold=1.5)

    def step(effects: Effects) -> ResultMeta:
        now = time.perf_counter()
        ready = Ready(0, 0, Flags.NONE, now, now, now, colour(0))
        found = stepper.step(ready, None, effects, 0.0)
        assert found is not None
        return found.meta

    def in_force() -> tuple[int | None, Any]:
        return stream.spec.period, pytest.approx(stream.spec.threshold)

    assert step(Effects()).degraded is None
    assert in_force() == (4, 0.1)
    degraded = step(more).degraded
    assert degraded is not None
    assert (degraded.level, degraded.period, degraded.one_of) == (2, 16, 1)
    assert in_force() == (16, 0.15)
    stepper.update(StreamUpdate(threshold=0.2))
    step(more)
    assert in_force() == (16, 0.3)
    stepper.update(StreamUpdate(period=6, box=[0.0, 0.0, 1.0, 1.0]))  # refused: it is no pose model
    step(more)
    assert stepper.refused
    assert in_force() == (16, 0.3), "nothing of it was taken"
    stepper.update(StreamUpdate(period=5))
    assert step(Effects()).degraded is None
    assert in_force() == (5, 0.2)
    assert stepper.period == 5
