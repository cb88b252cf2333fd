"""A stream whose connection breaks: it waits, goes on over another, and is accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection

from service.client import RemoteError, Result, connect
from service.keys import Scope, add_key
from service.masks import unpack_ids
from service.messages import Drop, Ended, Outputs, StreamStart, StreamUpdate
from service.protocol import Close
from service.registry import DuplicateIdError, FullError, QuotaError, Registry
from service.transport import Transport
from service.wire import Frame, Kind
from tests.service.conftest import SIZE, SlowEngine, colour, encoded
from tests.service.test_decoder import packets
from tests.service.test_streams import eventually, metric, raw, until_closed

Serve = Callable[..., str]
START = {"type": "stream.start", "mode": "lossless"}


def image(seq: int, shift: int = 0) -> bytes:
    return Frame(Kind.IMAGE, seq, seq, encoded(colour(shift))).pack()


async def text(socket: ClientConnection) -> dict[str, Any]:
    """The next text message; results on the way are passed over."""
    while isinstance(data := await socket.recv(), bytes):
        pass
    message: dict[str, Any] = json.loads(data)
    return message


async def result(socket: ClientConnection) -> Frame:
    """The next result; texts on the way are passed over."""
    while isinstance(data := await socket.recv(), str):
        pass
    return Frame.unpack(data)


def state(address: str) -> list[str]:
    return [s["state"] for s in httpx.get(f"{address}/v1/streams").json()["streams"]]


async def vanish(address: str, socket: ClientConnection) -> None:
    """Break the connection without a word, and wait until the server knows."""
    before = state(address).count("waiting_for_client")
    socket.transport.abort()
    await eventually(lambda: state(address).count("waiting_for_client") == before + 1)


async def test_a_stream_goes_on_where_it_was(serve: Serve, engine: SlowEngine) -> None:
    address = serve(max_streams=1, period=4)
    async with raw(address, START | {"id": "yard", "period": 3}) as first:
        token = (await text(first))["resume"]
        for seq in range(2):
            await first.send(image(seq))
            await result(first)
        engine.seconds = 0.3
        for seq in (2, 3, 4):
            await first.send(image(seq))
        await eventually(lambda: sum(len(s.starts) for s in engine.opened if s.starts) >= 3)
        await vanish(address, first)
    engine.seconds = 0.0
    held = engine.held
    assert held > 0, "the engine's state stays"
    async with raw(address, {"type": "stream.start", "resume": token}) as second:
        started = await text(second)
        assert (started["id"], started["period"], started["resume"]) == ("yard", 3, token)
        ledger = started["resumed"]
        assert ledger["last_seq"] == 4
        assert ledger["received"] == 5 == ledger["results"] + ledger["drops"]
        assert ledger["drop_reasons"] == {"disconnected": 3}
        await second.send(image(5))
        again = await result(second)
        assert again.meta["anchor_reason"] in (None, "period"), "its state was kept"
        await second.send('{"type":"stream.end"}')
        messages, code, _ = await until_closed(second)
    total = messages[-1]
    assert code == Close.NORMAL
    assert total["received"] == 6 == total["results"] + total["drops"]
    assert total["drop_reasons"] == {"disconnected": 3}
    await eventually(lambda: engine.held == 0)
    assert metric(address, "resq_streams_active") == 0


async def test_two_streams_that_come_back_never_mix(serve: Serve) -> None:
    address = serve(threads=2)
    tokens = {}
    for shift in (0, 1):
        async with raw(address, START) as socket:
            tokens[shift] = (await text(socket))["resume"]
            await socket.send(image(0, shift))
            await result(socket)
            await vanish(address, socket)
    assert tokens[0] != tokens[1]

    async def one(shift: int) -> None:
        async with raw(address, {"type": "stream.start", "resume": tokens[shift]}) as socket:
            await text(socket)
            for seq in range(1, 8):
                await socket.send(image(seq, shift))
                answer = await result(socket)
                assert answer.meta["index"] == seq
                mask = answer.blobs()["mask"][1]
                assert await asyncio.to_thread(_left, mask) == shift
            await socket.send('{"type":"stream.end"}')
            messages, _, _ = await until_closed(socket)
            assert messages[-1]["results"] == 8

    await asyncio.gather(one(0), one(1))


def _left(mask: bytes) -> int:
    return int(unpack_ids(mask, SIZE)[24, 5])


async def test_only_the_token_of_a_stream_of_ones_own(serve: Serve, tmp_path: Path) -> None:
    keys = [add_key(tmp_path / "data", name, (Scope.STREAM,))[1] for name in ("one", "two")]
    headers = [{"Authorization": f"Bearer {key}"} for key in keys]
    address = serve(idle_timeout=1.0)
    async with raw(address, START, headers=headers[0]) as socket:
        token = (await text(socket))["resume"]
        assert len(token) >= 40
        socket.transport.abort()
    resume = {"type": "stream.start", "resume": token}
    for guess, sender in ((resume, 1), (resume | {"resume": token[:-1] + "!"}, 0)):
        async with raw(address, guess, headers=headers[sender]) as socket:
            messages, code, reason = await until_closed(socket)
        assert (messages[0]["code"], reason) == ("unknown_stream", "unknown_stream")
        assert code == Close.BAD_OPTIONS
    async with raw(address, resume, headers=headers[0]) as socket:
        assert (await text(socket))["resumed"]["received"] == 0


async def test_a_stream_waits_no_longer_than_the_idle_timeout(
    serve: Serve, engine: SlowEngine
) -> None:
    address = serve(idle_timeout=0.5)
    async with raw(address, START) as socket:
        token = (await text(socket))["resume"]
        await socket.send(image(0))
        await result(socket)
        await vanish(address, socket)
    await eventually(lambda: state(address) == [])
    assert engine.held == 0
    assert metric(address, "resq_streams_active") == 0
    async with raw(address, {"type": "stream.start", "resume": token}) as socket:
        messages, code, _ = await until_closed(socket)
    assert messages[0]["code"] == "unknown_stream"
    assert code == Close.BAD_OPTIONS


async def test_a_client_that_closes_leaves_nothing_to_resume(serve: Serve) -> None:
    address = serve()
    async with raw(address, START) as socket:
        await text(socket)
    await eventually(lambda: state(address) == [])


async def test_a_connection_that_looks_alive_is_taken_over(serve: Serve) -> None:
    address = serve()
    async with raw(address, START) as first:
        token = (await text(first))["resume"]
        await first.send(image(0))
        await result(first)
        for seq in (1, 2):
            async with raw(address, {"type": "stream.start", "resume": token}) as second:
                assert (await text(second))["resumed"]["last_seq"] == seq - 1
                await second.send(image(seq))
                assert (await result(second)).meta["index"] == seq
                if seq == 1:
                    _, code, reason = await until_closed(first)
                    assert (code, reason) == (Close.DUPLICATE, "resumed_elsewhere")
                    await vanish(address, second)
                else:
                    await second.send('{"type":"stream.end"}')
                    messages, code, _ = await until_closed(second)
    assert messages[-1]["results"] == 3
    assert state(address) == []


async def test_resume_stands_alone(serve: Serve) -> None:
    start = {"type": "stream.start", "resume": "x", "period": 3}
    async with raw(serve(), start) as socket:
        messages, code, _ = await until_closed(socket)
    assert "resume without any other option" in messages[0]["message"]
    assert code == Close.BAD_OPTIONS


@pytest.mark.parametrize("codec", ["h264", "vp8"])
async def test_video_goes_on_at_the_next_idr(serve: Serve, codec: str) -> None:
    units = packets(codec, 10)  # type: ignore[arg-type] # an IDR every fourth
    kind = Kind.H264 if codec == "h264" else Kind.VP8
    address = serve(credits=16)
    async with raw(address, START | {"input": codec}) as socket:
        token = (await text(socket))["resume"]
        for seq in range(2):
            await socket.send(Frame(kind, seq, seq, units[seq]).pack())
            await result(socket)
        await vanish(address, socket)
    async with raw(address, {"type": "stream.start", "resume": token}) as socket:
        await text(socket)
        for seq in range(2, 10):
            await socket.send(Frame(kind, seq, seq, units[seq]).pack())
        await socket.send('{"type":"stream.end"}')
        messages, _, _ = await until_closed(socket)
    dropped = {m["seq"]: m["reason"] for m in messages if isinstance(m, dict) and "seq" in m}
    assert dropped == {2: "waiting_for_idr", 3: "waiting_for_idr"}
    assert [Frame.unpack(m).seq for m in messages if isinstance(m, bytes)] == list(range(4, 10))


async def test_an_operator_ends_a_stream_whose_client_is_away(serve: Serve) -> None:
    address = serve()
    async with raw(address, START | {"id": "yard"}) as socket:
        token = (await text(socket))["resume"]
        await vanish(address, socket)
    assert httpx.delete(f"{address}/v1/streams/yard").status_code == 204
    await eventually(lambda: state(address) == [])
    async with raw(address, {"type": "stream.start", "resume": token}) as socket:
        messages, _, _ = await until_closed(socket)
    assert messages[0]["code"] == "unknown_stream"


async def test_a_client_that_begins_anew_is_not_kept_out_by_itself(serve: Serve) -> None:
    address = serve(max_streams=1)
    for _ in range(3):  # a camera whose program crashes and starts again
        async with raw(address, START | {"id": "door"}) as socket:
            assert (await text(socket))["resumed"] is None
            await socket.send(image(0))
            await result(socket)
            await vanish(address, socket)
    assert state(address) == ["waiting_for_client"]


class Session:
    """A session as the registry knows it."""

    waiting = False
    reason: str | None = None

    def describe(self) -> dict[str, Any]:
        return {}

    def stop(self, reason: str) -> None:
        self.reason = reason

    async def adopt(self, transport: Transport) -> None:
        raise NotImplementedError


async def test_a_place_is_never_given_twice() -> None:
    registry = Registry(2, 2)
    slots = [registry.admit("a"), registry.admit("a")]
    sessions = [Session(), Session()]
    for slot, session in zip(slots, sessions, strict=True):
        slot.name(None, session)
    with pytest.raises(FullError):
        registry.admit("a", may_resume=True)
    sessions[0].waiting = True
    with pytest.raises(FullError):
        registry.admit("a")
    with pytest.raises(FullError):
        registry.admit("b", may_resume=True)
    guest = registry.admit("a", may_resume=True)
    with pytest.raises(FullError):
        registry.admit("a", may_resume=True)
    assert guest.find(slots[0].resume) is sessions[0]
    assert guest.find(slots[0].resume + "x") is None
    guest.release()
    guest.release()
    guest = registry.admit("a", may_resume=True)
    sessions[0].waiting = False
    with pytest.raises(FullError):
        guest.name("x", Session())
    sessions[0].waiting = True
    guest.name("x", Session())
    assert sessions[0].reason == "replaced"
    with pytest.raises(FullError):
        registry.admit("b")
    slots[0].release()
    slots[0].release()
    with pytest.raises(FullError):
        registry.admit("b")
    guest.release()
    registry.admit("b")
    with pytest.raises(FullError):
        registry.admit("b")


async def test_an_id_passes_on_within_one_client_only() -> None:
    registry = Registry(8, 2)
    slot, session = registry.admit("a"), Session()
    slot.name("door", session)
    with pytest.raises(DuplicateIdError):
        registry.admit("a").name("door", Session())
    session.waiting = True
    with pytest.raises(DuplicateIdError):
        registry.admit("b").name("door", Session())
    with pytest.raises(QuotaError):
        registry.admit("a")
    registry.admit("a", may_resume=True).name("door", heir := Session())
    assert session.reason == "replaced"
    slot.release()
    assert registry.sessions == {"door": heir}


class Network:
    """A TCP proxy in front of a server that can be cut and mended."""

    def __init__(self, address: str) -> None:
        self._host, port = address.removeprefix("http://").split(":")
        self._port, self.whole = int(port), True
        self._ends: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Network:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def move(self, address: str) -> None:
        """From now on lead to another server."""
        self._port, self.whole = int(address.rpartition(":")[2]), True

    def cut(self) -> None:
        """Every connection breaks; none is made before `whole` is true again."""
        self.whole = False
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.whole:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._ends |= {writer, far_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_the_client_comes_back_by_itself(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.02
    options = StreamStart(mode="lossless", outputs=Outputs(mask="none"))
    async with (
        Network(serve()) as network,
        connect(network.address, options, patience=30) as stream,
        asyncio.TaskGroup() as group,
    ):

        async def feed() -> None:
            for i in range(40):
                await stream.send(encoded(colour(i)))
                if i in (10, 25):
                    network.cut()
                    await asyncio.sleep(0.3)
                    network.whole = True
            await stream.update(StreamUpdate(period=9))
            await stream.end()

        group.create_task(feed())
        answers = [answer async for answer in stream]
    last = answers[-1]
    assert isinstance(last, Ended)
    assert last.received == last.results + last.drops
    settled = [a.meta.seq for a in answers if isinstance(a, Result)]
    settled += [a.seq for a in answers if isinstance(a, Drop)]
    assert sorted(settled) == list(range(40)), "each frame has one answer"
    lost = {a.seq for a in answers if isinstance(a, Drop)}
    assert {a.reason for a in answers if isinstance(a, Drop)} == {"disconnected"}
    assert 1 <= len(lost) <= 12
    assert stream.started.resumed is not None


async def test_the_clients_patience_ends(serve: Serve) -> None:
    async with Network(serve()) as network:
        for patience, words in ((0.0, "broke off"), (0.5, "did not come back within 0.5 s")):
            network.whole = True
            async with connect(network.address, StreamStart(), patience=patience) as stream:
                network.cut()
                with pytest.raises(RemoteError, match=words):
                    await stream.receive()


async def test_a_client_that_comes_back_too_late_is_told_so(serve: Serve) -> None:
    address = serve(idle_timeout=0.3)
    async with (
        Network(address) as network,
        connect(network.address, StreamStart(), patience=20) as stream,
    ):
        network.cut()
        await eventually(lambda: state(address) == [])
        network.whole = True
        with pytest.raises(RemoteError, match="no stream of yours has this token"):
            await stream.receive()
