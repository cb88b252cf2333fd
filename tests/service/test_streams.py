"""Streams over a real WebSocket: every frame answered, every mistake said, everything freed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_raw
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from service.client import Answer, ClientStream, RemoteError, Result, connect
from service.messages import Drop, Ended, ErrorMessage, Outputs, Reset, StreamStart, StreamUpdate
from service.protocol import SUBPROTOCOL, Close
from service.wire import Flags, Frame, Kind
from tests.service.conftest import SIZE, SlowEngine, colour, encoded
from tests.service.test_decoder import packets, png_header

Serve = Callable[..., str]
LOSSLESS = StreamStart(mode="lossless", outputs=Outputs(mask="zlib", bit_map=True))


async def feed(stream: ClientStream, frames: list[bytes]) -> None:
    for data in frames:
        await stream.send(data)
    await stream.end()


async def talk(address: str, options: StreamStart, frames: list[bytes]) -> list[Answer]:
    """Send frames and gather every answer up to `stream.ended`."""
    async with connect(address, options) as stream, asyncio.TaskGroup() as group:
        group.create_task(feed(stream, frames))
        return [answer async for answer in stream]


def ended(answers: list[Answer]) -> Ended:
    last = answers[-1]
    assert isinstance(last, Ended)
    assert last.received == last.results + last.drops
    settled = [a for a in answers if isinstance(a, (Result, Drop))]
    assert len(settled) == last.received
    return last


def results(answers: list[Answer]) -> list[Result]:
    return [a for a in answers if isinstance(a, Result)]


def drops(answers: list[Answer]) -> dict[int, str]:
    return {a.seq: a.reason for a in answers if isinstance(a, Drop)}


@contextlib.asynccontextmanager
async def raw(
    address: str,
    *start: Any,
    offer: str = SUBPROTOCOL,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Any]:
    """A bare connection that has sent `start`."""
    url = address.replace("http", "ws") + "/v1/streams"
    async with connect_raw(
        url, subprotocols=[Subprotocol(offer)], compression=None, additional_headers=headers
    ) as socket:
        for message in start:
            data = message if isinstance(message, (str, bytes)) else json.dumps(message)
            await socket.send(data)
        yield socket


async def until_closed(socket: ClientConnection) -> tuple[list[Any], int, str]:
    """What still comes, then the close code and its reason."""
    texts: list[Any] = []
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionClosed):
            async for data in socket:
                texts.append(json.loads(data) if isinstance(data, str) else data)
    return texts, socket.close_code or 0, socket.close_reason or ""


def resident_kib() -> int:
    """Memory of this process."""
    gc.collect()
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])


async def eventually(check: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.perf_counter() + seconds
    while not check():
        assert time.perf_counter() < deadline, "it did not come true"
        await asyncio.sleep(0.02)


def metric(address: str, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.split("{")[0].split(" ")[0] == name)


async def test_every_frame_gets_its_own_mask(serve: Serve) -> None:
    answers = await talk(serve(), LOSSLESS, [encoded(colour(i)) for i in range(10)])
    found = results(answers)
    assert [r.meta.seq for r in found] == list(range(10))
    assert [r.meta.index for r in found] == list(range(10))
    for i, result in enumerate(found):
        assert result.mask is not None
        assert result.mask.shape == SIZE
        assert result.mask[24, 5] == i % 3
        assert result.mask[24, 60] == (i + 1) % 3
    reasons = [r.meta.anchor_reason for r in found]
    assert reasons == ["first_frame", None, None, None, "period", None, None, None, "period", None]
    total = ended(answers)
    assert (total.reason, total.results, total.anchors) == ("ended", 10, 3)
    assert total.bops == sum(r.meta.bops.frame for r in found)


async def test_results_are_those_of_the_engine(serve: Serve, engine: SlowEngine) -> None:
    frames = [colour(i // 3) for i in range(7)]
    answers = await talk(serve(), LOSSLESS, [encoded(f) for f in frames])
    alone = engine.open(engine.opened[-1].spec)
    for frame, result in zip(frames, results(answers), strict=True):
        wanted = alone.step(frame, True, False, None)
        assert result.mask is not None
        assert result.bit_map is not None
        assert wanted.bit_map is not None
        assert np.array_equal(result.mask, wanted.ids)
        assert np.allclose(result.bit_map, wanted.bit_map, atol=1 / 60)
        assert result.meta.bops == wanted.bops


async def test_outputs_are_what_was_asked_for(serve: Serve) -> None:
    address, frames = serve(), [encoded(colour(0))]
    nothing = results(await talk(address, StreamStart(outputs=Outputs(mask="none")), frames))[0]
    assert nothing.blobs == {}
    everything = StreamStart(outputs=Outputs(mask="png", bit_map=True, layers=True))
    result = results(await talk(address, everything, frames))[0]
    assert set(result.blobs) == {"mask", "bit_map", "layers"}
    assert result.blobs["mask"][:8] == b"\x89PNG\r\n\x1a\n"
    assert result.bit_map is not None
    assert result.bit_map.shape == (6, 8)
    assert float(result.bit_map.min()) == 8.0  # a keyframe


async def test_live_answers_the_newest_and_counts_the_rest(
    serve: Serve, engine: SlowEngine
) -> None:
    engine.seconds = 0.05
    start = {"type": "stream.start", "mode": "live"}
    async with raw(serve(credits=64), start) as socket:
        await socket.recv()
        for seq in range(40):
            await socket.send(Frame(Kind.IMAGE, seq, seq, encoded(colour(seq))).pack())
        await socket.send('{"type":"stream.end"}')
        messages, code, _ = await until_closed(socket)
    texts = [m for m in messages if isinstance(m, dict)]
    answered = [Frame.unpack(m).seq for m in messages if isinstance(m, bytes)]
    dropped = [m["seq"] for m in texts if m["type"] == "drop"]
    assert sorted(answered + dropped) == list(range(40))
    assert answered == sorted(answered)
    assert answered[-1] == 39, "the newest frame is the one worth having"
    assert len(answered) < 20
    assert {m["reason"] for m in texts if m["type"] == "drop"} == {"superseded"}
    assert code == Close.NORMAL


async def test_a_deadline_drops_what_comes_too_late(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.2
    options = StreamStart(mode="lossless", deadline_ms=500)
    answers = await talk(serve(), options, [encoded(colour(i)) for i in range(4)])
    assert set(drops(answers).values()) == {"deadline"}
    assert 0 < ended(answers).results < 4


async def test_options_change_while_it_runs(serve: Serve) -> None:
    frames = [encoded(colour(0)) for _ in range(12)]
    async with connect(serve(), LOSSLESS) as stream:
        reasons = []
        for i, data in enumerate(frames):
            if i == 2:
                await stream.update(StreamUpdate(period=2, threshold=0.0))
            if i == 6:
                await stream.update(StreamUpdate(period=100, outputs=Outputs(mask="none")))
            await stream.send(data)
            answer = await stream.receive()
            while not isinstance(answer, Result):
                answer = await stream.receive()
            reasons.append(answer.meta.anchor_reason)
            assert ("mask" in answer.blobs) == (i < 6)
    assert reasons[2:6] == ["period", None, "period", None]
    assert reasons[6:] == [None] * 6


@pytest.mark.parametrize(
    "update",
    [{"period": 0}, {"threshold": -1}, {"threshold": "0.1"}, {"perod": 3}, {"model": "tiny"}],
)
async def test_a_bad_update_is_said_and_costs_nothing(serve: Serve, update: dict[str, Any]) -> None:
    start = {"type": "stream.start", "mode": "lossless"}
    async with raw(serve(), start) as socket:
        await socket.recv()
        await socket.send(json.dumps({"type": "stream.update", **update}))
        error = json.loads(await socket.recv())
        assert (error["type"], error["fatal"]) == ("error", False)
        assert next(iter(update)) in error["message"]
        await socket.send(Frame(Kind.IMAGE, 0, 0, encoded(colour(0))).pack())
        assert Frame.unpack(await socket.recv()).kind is Kind.RESULT


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"model": "nope"}, "model", "no model is called 'nope'; there are: tiny, marker"),
        ({"precision": "8 bits"}, "precision", "does not parse"),
        ({"precision": "W8A8->W2A2"}, "precision", "calibrated are"),
        ({"period": 0}, "period", "greater than or equal to 1"),
        ({"period": 1.5}, "period", "integer"),
        ({"threshold": -0.1}, "threshold", "greater than or equal to 0"),
        ({"policy": "best"}, "policy", "'paper' or 'relative'"),
        ({"mode": "fast"}, "mode", "'live' or 'lossless'"),
        ({"input": "gif"}, "input", "'image'"),
        ({"id": "../x"}, "id", "pattern"),
        ({"outputs": {"mask": "svg"}}, "outputs.mask", "'png'"),
        ({"speed": 3}, "speed", "not an option"),
    ],
)
async def test_bad_options_close_with_a_reason(
    serve: Serve, options: dict[str, Any], field: str, words: str
) -> None:
    async with raw(serve(), {"type": "stream.start", **options}) as socket:
        messages, code, _ = await until_closed(socket)
    (error,) = messages
    assert (error["type"], error["code"], error["fatal"]) == ("error", "bad_options", True)
    assert error["field"] == field
    assert words in error["message"]
    assert code == Close.BAD_OPTIONS


async def test_nan_is_no_threshold(serve: Serve) -> None:
    async with raw(serve(), '{"type":"stream.start","threshold":NaN}') as socket:
        messages, code, _ = await until_closed(socket)
    assert "threshold" in messages[0]["message"]
    assert code == Close.BAD_OPTIONS


@pytest.mark.parametrize(
    "message",
    ["{", "[]", '{"type":"stream.stop"}', '{"type":"stream.end"}', b"", b"\0" * 40, "x" * 70_000],
)
async def test_nonsense_is_refused(serve: Serve, message: str | bytes) -> None:
    async with raw(serve(), message) as socket:
        messages, code, _ = await until_closed(socket)
    assert messages[-1]["fatal"]
    assert code in (Close.VIOLATION, Close.TOO_BIG)


async def test_a_frame_above_the_limit_is_refused(serve: Serve) -> None:
    start = {"type": "stream.start"}
    async with raw(serve(max_frame_bytes=2000), start) as socket:
        await socket.recv()
        with contextlib.suppress(ConnectionClosed):
            await socket.send(bytes(3_000_000))
        _, code, _ = await until_closed(socket)
    assert code == Close.TOO_BIG


async def test_a_bad_frame_costs_only_itself(serve: Serve) -> None:
    good = [encoded(colour(i)) for i in range(4)]
    frames = [
        good[0],
        encoded(colour(1), "JPEG")[:300],
        good[1],
        b"",
        encoded(colour(0, (1, 1))),
        png_header(20_000, 20_000),
        good[2],
        good[3],
    ]
    answers = await talk(serve(), LOSSLESS, frames)
    assert drops(answers) == {1: "bad_frame", 3: "bad_frame", 4: "too_small", 5: "too_big"}
    assert [r.meta.seq for r in results(answers)] == [0, 2, 6, 7]
    assert [r.meta.index for r in results(answers)] == [0, 1, 2, 3]
    assert ended(answers).drop_reasons == {"bad_frame": 2, "too_small": 1, "too_big": 1}


async def test_a_new_size_is_an_anchor_and_is_said(serve: Serve) -> None:
    sizes = [(48, 64), (48, 64), (96, 128), (96, 128), (30, 20)]
    answers = await talk(serve(), LOSSLESS, [encoded(colour(0, size)) for size in sizes])
    reasons = [r.meta.anchor_reason for r in results(answers)]
    assert reasons == ["first_frame", None, "size_changed", None, "size_changed"]
    assert [r.mask.shape for r in results(answers) if r.mask is not None] == sizes
    assert [a.reason for a in answers if isinstance(a, Reset)] == ["size_changed"] * 2


async def test_an_anchor_on_request(serve: Serve) -> None:
    async with raw(serve(), {"type": "stream.start", "mode": "lossless"}) as socket:
        await socket.recv()
        for seq, flags in enumerate((Flags.NONE, Flags.NONE, Flags.ANCHOR)):
            frame = Frame(Kind.IMAGE, seq, seq, encoded(colour(0)), flags=flags)
            await socket.send(frame.pack())
            answer = Frame.unpack(await socket.recv())
        assert answer.meta["anchor_reason"] == "requested"
        assert Flags.ANCHOR in answer.flags


@pytest.mark.parametrize("codec", ["h264", "vp8"])
@pytest.mark.parametrize("mode", ["live", "lossless"])
async def test_video_streams(serve: Serve, codec: Any, mode: Any) -> None:
    units = packets(codec, 8)
    options = StreamStart(mode=mode, input=codec, outputs=Outputs(mask="none"))
    answers = await talk(serve(credits=16), options, units)
    total = ended(answers)
    assert total.received == len(units)
    if mode == "lossless":
        assert total.results == len(units)
    else:
        assert set(drops(answers).values()) <= {"superseded"}


async def test_a_video_that_starts_in_the_middle_waits_for_an_idr(serve: Serve) -> None:
    units = packets("h264", 10)  # an IDR every fourth
    options = StreamStart(mode="lossless", input="h264")
    answers = await talk(serve(), options, units[1:])
    assert drops(answers) == {0: "waiting_for_idr", 1: "waiting_for_idr", 2: "waiting_for_idr"}
    assert [r.meta.seq for r in results(answers)] == list(range(3, 9))


async def test_a_damaged_access_unit_costs_what_depends_on_it(serve: Serve) -> None:
    units = packets("h264", 12)
    units[5] = units[5][:5] + bytes(len(units[5]))
    options = StreamStart(mode="lossless", input="h264")
    answers = await talk(serve(credits=16), options, units)
    lost = drops(answers)
    assert lost[5] == "bad_frame"
    assert set(lost) <= {5, 6, 7}
    assert {r.meta.seq for r in results(answers)} == set(range(12)) - set(lost)


async def test_more_frames_than_credits_break_the_contract(
    serve: Serve, engine: SlowEngine
) -> None:
    engine.seconds = 0.3
    async with raw(serve(credits=2), {"type": "stream.start", "mode": "lossless"}) as socket:
        await socket.recv()
        for seq in range(3):
            await socket.send(Frame(Kind.IMAGE, seq, seq, encoded(colour(seq))).pack())
        messages, code, _ = await until_closed(socket)
    texts = [m for m in messages if isinstance(m, dict)]
    assert "at most 2" in next(m for m in texts if m["type"] == "error")["message"]
    last = texts[-1]
    assert last["type"] == "stream.ended"
    assert last["received"] == last["results"] + last["drops"] == 2
    assert code == Close.VIOLATION


async def test_admission_and_release(serve: Serve, engine: SlowEngine) -> None:
    address = serve(max_streams=2)
    start = {"type": "stream.start", "id": "door"}
    async with raw(address, start) as first, raw(address) as second:
        await first.recv()
        async with raw(address) as third:
            _, code, reason = await until_closed(third)
            assert code == Close.FULL
            assert "2 streams are taken" in reason
        await second.send(json.dumps(start))
        messages, code, _ = await until_closed(second)
        assert "'door' is active" in messages[0]["message"]
        assert code == Close.DUPLICATE
        assert [s["id"] for s in httpx.get(f"{address}/v1/streams").json()["streams"]] == ["door"]
    await eventually(lambda: httpx.get(f"{address}/v1/streams").json()["streams"] == [])
    async with raw(address, start) as again:
        assert json.loads(await again.recv())["type"] == "stream.started"
    assert metric(address, "resq_admission_rejects_total") == 1


async def test_without_the_subprotocol(serve: Serve) -> None:
    async with raw(serve(), offer="chat") as socket:
        _, code, reason = await until_closed(socket)
    assert code == Close.VIOLATION
    assert SUBPROTOCOL in reason


async def test_a_client_that_vanishes_leaves_nothing(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.1
    address = serve(max_streams=1, idle_timeout=0.5)
    for _ in range(3):
        async with raw(address, {"type": "stream.start"}) as socket:
            await socket.recv()
            for seq in range(3):
                await socket.send(Frame(Kind.IMAGE, seq, seq, encoded(colour(seq))).pack())
            await socket.recv()
            socket.transport.abort()
        await eventually(lambda: metric(address, "resq_streams_active") == 0)
    assert engine.held == 0
    assert metric(address, "resq_cache_bytes") == 0
    assert metric(address, "resq_streams_ended_total") == 3
    received = metric(address, "resq_frames_total")
    assert received > 0
    answered = results(await talk(address, LOSSLESS, [encoded(colour(1))]))
    assert answered[0].meta.anchor_reason == "first_frame"


async def test_a_silent_client_is_closed(serve: Serve) -> None:
    address = serve(idle_timeout=0.3)
    for start in ([], [{"type": "stream.start"}]):
        async with raw(address, *start) as socket:
            messages, code, _ = await until_closed(socket)
        assert code == Close.IDLE
        assert any(m.get("code") == "idle" for m in messages)


@pytest.mark.parametrize(("mode", "code"), [("live", 4413), ("lossless", 1008)])
async def test_a_client_that_never_reads_is_closed(
    serve: Serve, engine: SlowEngine, mode: str, code: int
) -> None:
    address = serve(send_timeout=1.0, credits=256)
    url = address.replace("http", "ws") + "/v1/streams"
    outputs = {"mask": "png", "bit_map": True, "layers": True}
    start = {"type": "stream.start", "mode": mode, "outputs": outputs}
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    picture = encoded(noise.repeat(20, 0).repeat(20, 1), "JPEG")  # so that masks are large
    protocols = [Subprotocol(SUBPROTOCOL)]

    async def flood(socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for seq in range(100_000):
                await socket.send(Frame(Kind.IMAGE, seq, seq, picture).pack())

    async with connect_raw(url, subprotocols=protocols, compression=None, max_queue=1) as socket:
        await socket.send(json.dumps(start))
        await socket.recv()
        flooding = asyncio.create_task(flood(socket))
        await eventually(lambda: metric(address, "resq_ws_closes_total") == 1, 60)
        assert f'resq_ws_closes_total{{code="{code}"}}' in httpx.get(f"{address}/metrics").text
        flooding.cancel()
        socket.transport.abort()
    assert metric(address, "resq_streams_active") == 0
    assert engine.held == 0
    other = await talk(address, LOSSLESS, [encoded(colour(0))])
    assert ended(other).results == 1


async def test_an_operator_ends_a_stream(serve: Serve) -> None:
    address = serve()
    async with raw(address, {"type": "stream.start", "id": "yard"}) as socket:
        await socket.recv()
        assert httpx.delete(f"{address}/v1/streams/yard").status_code == 204
        messages, code, reason = await until_closed(socket)
    assert messages[-1]["reason"] == reason == "deleted"
    assert code == Close.NORMAL
    missing = httpx.delete(f"{address}/v1/streams/yard")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"


async def test_streams_share_the_machine_fairly(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.02
    address = serve()
    options = StreamStart(mode="lossless", outputs=Outputs(mask="none"))
    frames = [encoded(colour(i)) for i in range(25)]
    await asyncio.gather(*(talk(address, options, frames) for _ in range(3)))
    streams = [s for s in engine.opened if len(s.starts) == 25]
    assert len(streams) == 3
    # while all three had frames to run: a stream may have begun later than the others
    begin, end = max(s.starts[0] for s in streams), min(s.starts[-1] for s in streams)
    turns = [sum(begin <= t <= end for t in s.starts) for s in streams]
    assert min(turns) > 5, turns
    assert max(turns) - min(turns) <= 3, turns


async def test_many_streams_never_mix(serve: Serve) -> None:
    address = serve(threads=2)

    async def one(shift: int) -> None:
        answers = await talk(address, LOSSLESS, [encoded(colour(shift)) for _ in range(12)])
        for result in results(answers):
            assert result.mask is not None
            assert result.mask[24, 5] == shift
            assert result.mask[24, 60] == (shift + 1) % 3
        assert ended(answers).results == 12

    await asyncio.gather(one(0), one(1), one(2))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
async def test_memory_does_not_grow_with_the_frames(serve: Serve) -> None:
    address = serve()
    everything = Outputs(mask="png", bit_map=True, layers=True)
    frames = [encoded(colour(i % 6)) for i in range(400)]

    async def both() -> int:
        await asyncio.gather(
            talk(address, StreamStart(mode="lossless", outputs=everything), frames),
            talk(address, StreamStart(mode="live", outputs=everything), frames),
        )
        return resident_kib()

    await both()
    before = await both()
    for _ in range(3):
        after = await both()
    assert after - before < 2400, "over a kilobyte stays behind per frame"


async def test_the_client_says_what_the_server_said(serve: Serve) -> None:
    with pytest.raises(RemoteError, match="no model is called 'x'"):
        async with connect(serve(), StreamStart(model="x")):
            pass


async def test_errors_are_messages_too(serve: Serve) -> None:
    async with connect(serve(), LOSSLESS) as stream:
        await stream._put('{"type":"stream.update","period":-1}')
        answer = await stream.receive()
    assert isinstance(answer, ErrorMessage)
    assert "period" in answer.message
