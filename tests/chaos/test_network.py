"""Clients that vanish, and networks that are cut: nothing stays, and the others go on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Literal

import httpx
import pytest

from benchmarks.ledger import counted
from service.messages import InputKind, StreamStart
from tests.chaos.conftest import PLAIN, Box, bystander, feed, settled, warm
from tests.chaos.proxy import network

pytestmark = pytest.mark.chaos

ROUNDS = 24
KINDS: tuple[InputKind, ...] = ("image", "h264", "vp8", "rgb")
MODES: tuple[Literal["live", "lossless"], ...] = ("live", "lossless")


async def test_clients_that_vanish_leave_nothing(box: Box) -> None:
    """Their streams wait for them, for as long as the idle timeout, and no longer."""
    with box(idle_timeout=2.0) as server:
        level = await warm(server)
        async with bystander(server.address):
            for turn in range(ROUNDS):
                options = StreamStart(mode=MODES[turn % 2], input=KINDS[turn % 4], outputs=PLAIN)
                async with counted(server.address, options) as stream:
                    feeding = asyncio.create_task(feed(stream, pause=0.002))
                    await stream.answered(turn % 6)
                    stream.vanish()
                    await stream.closed.wait()
                    await feeding
                assert stream.ledger.problems() == []
                assert stream.ledger.ended is None
        await settled(server, level)


async def test_connections_that_are_reset_early_leave_nothing(box: Box) -> None:
    """At every step of the handshake and of the start."""
    with box() as server:
        level = await warm(server)
        host, port = server.address.removeprefix("http://").split(":")
        request = (
            f"GET /v1/streams HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: resq.v1\r\n\r\n"
        ).encode()
        start = b'{"type":"stream.start"}'
        masked = bytes([0x81, 0x80 | len(start), 0, 0, 0, 0]) + start
        for step, data in enumerate((b"", request[:60], request, request + masked[:9]) * 6):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(data)
                if step % 2:
                    await asyncio.sleep(0.02)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        for _ in range(6):  # while its decoder is being started
            with socket.create_connection((host, int(port))) as client:
                client.sendall(request + masked)
                client.recv(20)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await settled(server, level)


async def test_a_silent_vanish_is_noticed(box: Box) -> None:
    """No packet comes any more, not even that of a close; streams with and without frames."""
    with box(idle_timeout=3.0, send_timeout=3.0) as server:
        level = await warm(server)
        async with bystander(server.address), network(server.address) as between:
            async with contextlib.AsyncExitStack() as stack:
                streams = []
                for mode in MODES:
                    for kind in KINDS:
                        options = StreamStart(mode=mode, input=kind, outputs=PLAIN)
                        streams.append(
                            await stack.enter_async_context(counted(between.address, options))
                        )
                feeding = [asyncio.create_task(feed(s, pause=0.005)) for s in streams[1:]]
                await asyncio.gather(*(s.answered(3) for s in streams[1:]))
                between.cut()
                await asyncio.sleep(0)
                await only(server.address, 1, 15.0)
                for task in feeding:
                    task.cancel()
                await asyncio.gather(*feeding, return_exceptions=True)
            for stream in streams:
                assert stream.ledger.problems() == []
        await settled(server, level)


async def only(address: str, count: int, seconds: float) -> None:
    """Wait until the server has no more streams than that."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await asyncio.to_thread(httpx.get, f"{address}/v1/streams")
        if len(answer.json()["streams"]) <= count:
            return
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("mode", MODES)
async def test_streams_outlast_a_cut_of_half_a_minute(
    box: Box, mode: Literal["live", "lossless"]
) -> None:
    """Where the operator's timeouts are longer. Every frame is answered, once."""
    with box(idle_timeout=60.0, ping_timeout=60.0) as server:
        level = await warm(server)
        async with bystander(server.address), network(server.address) as between:
            async with contextlib.AsyncExitStack() as stack:
                streams = []
                for kind in KINDS:
                    options = StreamStart(mode=mode, input=kind, outputs=PLAIN)
                    streams.append(
                        await stack.enter_async_context(counted(between.address, options))
                    )
                feeding = [asyncio.create_task(feed(s, pause=0.03)) for s in streams]
                await asyncio.gather(*(s.answered(10) for s in streams))
                await asyncio.sleep(12)  # so that a ping falls into the cut, unanswered
                between.cut()
                await asyncio.sleep(30)
                before = [s.ledger.answered for s in streams]
                between.mend()
                await asyncio.gather(
                    *(s.answered(n + 20) for s, n in zip(streams, before, strict=True))
                )
                for task in feeding:
                    task.cancel()
                await asyncio.gather(*feeding, return_exceptions=True)
                ledgers = await asyncio.gather(*(s.end() for s in streams))
            for ledger in ledgers:
                assert ledger.problems(whole=True) == []
                assert ledger.close == (1000, "ended")
                if mode == "lossless":
                    assert ledger.drops == {}
        await settled(server, level)


async def test_a_cut_beyond_the_idle_timeout_ends_the_stream_with_its_books_in_order(
    box: Box,
) -> None:
    with box(idle_timeout=2.0) as server:
        level = await warm(server)
        async with network(server.address) as between:
            options = StreamStart(mode="lossless", outputs=PLAIN)
            async with counted(between.address, options) as stream:
                feeding = asyncio.create_task(feed(stream, pause=0.02))
                await stream.answered(5)
                between.cut()
                await only(server.address, 0, 15.0)
                between.mend()
                async with asyncio.timeout(20):
                    await stream.closed.wait()
                await feeding
            assert stream.ledger.problems() == []
            if stream.ledger.close is not None:
                assert stream.ledger.close[0] == 4408
        await settled(server, level)
