"""The end of connections and of the server, whatever the clients do; by real signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from resq_core import QuantizedModel
from service import server as server_module
from service.config import Config
from service.job_store import JobStore
from service.protocol import Close
from service.redaction import Redaction
from service.server import Server, running
from service.wire import Frame, Kind
from tests.service.conftest import SlowEngine, colour, encoded
from tests.service.test_clips import clip_bytes, post
from tests.service.test_resume import START, image, result, state, text, vanish
from tests.service.test_server import wait_ready
from tests.service.test_streams import LOSSLESS, ended, eventually, raw, talk, until_closed

Serve = Callable[..., str]
DRAIN_SECONDS = 25.0


async def test_a_connection_that_is_half_open_is_found_out(
    serve: Serve, engine: SlowEngine
) -> None:
    address = serve(ping_timeout=0.3, idle_timeout=2.0)
    async with raw(address, START) as socket:
        token = (await text(socket))["resume"]
        await socket.send(image(0))
        await result(socket)
        socket.transport.pause_reading()  # it acknowledges, and answers nothing
        await eventually(lambda: state(address) == ["waiting_for_client"])
        other = await talk(address, LOSSLESS, [encoded(colour(i)) for i in range(4)])
        assert ended(other).results == 4
        async with raw(address, {"type": "stream.start", "resume": token}) as second:
            assert (await text(second))["resumed"]["results"] == 1
            await second.send(image(1))
            assert (await result(second)).meta["index"] == 1
            second.transport.pause_reading()
            await eventually(lambda: state(address) == [])
            second.transport.abort()
        socket.transport.abort()
    assert engine.held == 0


async def test_a_connection_that_is_over_is_gone(
    quantized: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its peer reads nothing of what was written to it."""
    monkeypatch.setattr(server_module, "_LINGER_SECONDS", 0.5)
    config = Config(model="tiny", data_dir=tmp_path, send_timeout=0.5, credits=256, decoders=0)
    server = Server(config, SlowEngine(quantized), log_level="warning")
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    picture = encoded(noise.repeat(20, 0).repeat(20, 1), "JPEG")

    async def flood(socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for seq in range(100_000):
                await socket.send(Frame(Kind.IMAGE, seq, seq, picture).pack())

    with running(server) as address:
        start = {"type": "stream.start", "outputs": {"mask": "png", "bit_map": True}}
        async with raw(address, start) as socket:
            await socket.recv()
            socket.transport.pause_reading()
            flooding = asyncio.create_task(flood(socket))
            await eventually(lambda: state(address) == [], 60)
            left = server.server_state
            await eventually(lambda: not left.connections and not left.tasks)
            flooding.cancel()
            socket.transport.abort()


def test_what_resumes_a_stream_never_reaches_a_log() -> None:
    text = '< TEXT \'{"type":"stream.start","resume":"resume_c2VjcmV0-_x"}\' [60 bytes]'
    record = logging.LogRecord("uvicorn.error", 10, "", 0, "%s", (text,), None)
    assert Redaction().filter(record)
    assert "c2VjcmV0" not in record.getMessage()
    assert '"stream.start"' in record.getMessage()


@contextlib.contextmanager
def process(folder: Path, **settings: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server in a process of its own, that is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "service.cli", "serve", "--port", port]
    given = {f"RESQ_{name.upper()}": value for name, value in settings.items()}
    environment = os.environ | {"RESQ_DATA_DIR": str(folder), "RESQ_THREADS": "1"} | given
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.perf_counter() + 120
            while not _listens(address):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.perf_counter() < deadline
                time.sleep(0.1)
            yield address, server
        finally:
            server.kill()
            server.wait()


def _listens(address: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{address}/readyz").status_code == 200
    return False


@pytest.mark.slow
async def test_sigterm_under_load(tmp_path: Path) -> None:
    """A stream that is served, one whose client is away, one whose client never reads, one that
    never began, and a clip: the first is told its totals, and the others hold up nothing."""
    with process(tmp_path, credits="64", send_timeout="60") as (address, server):
        picture = encoded(colour(0, (240, 320)), "JPEG")
        job = post(address, clip_bytes(300, (96, 128))).json()["id"]
        outputs = {"mask": "png", "bit_map": True, "layers": True}
        start = {"type": "stream.start", "mode": "lossless"}
        deaf_start = {"type": "stream.start", "mode": "live", "outputs": outputs}
        async with (
            raw(address, start) as served,
            raw(address, start) as away,
            raw(address, deaf_start) as deaf,
            raw(address),
        ):
            await text(away)
            await vanish(address, away)
            await text(deaf)
            deaf.transport.pause_reading()
            await text(served)

            async def flood(socket: ClientConnection, count: int) -> None:
                with contextlib.suppress(ConnectionClosed):
                    for seq in range(count):
                        await socket.send(Frame(Kind.IMAGE, seq, seq, picture).pack())

            flooding = asyncio.create_task(flood(deaf, 100_000))
            await flood(served, 64)
            await result(served)
            stopped = time.perf_counter()
            server.send_signal(signal.SIGTERM)
            messages, code, reason = await until_closed(served)
            await asyncio.to_thread(server.wait, DRAIN_SECONDS)
            flooding.cancel()
            deaf.transport.abort()
        assert time.perf_counter() - stopped < DRAIN_SECONDS
    assert (code, reason) == (Close.SHUTDOWN, "shutdown")
    total = messages[-1]
    assert (total["type"], total["reason"]) == ("stream.ended", "shutdown")
    assert total["received"] == 64 == total["results"] + total["drops"]
    answered = [Frame.unpack(m).seq for m in messages if isinstance(m, bytes)]
    dropped = [m["seq"] for m in messages if isinstance(m, dict) and m["type"] == "drop"]
    assert sorted(answered + dropped) == list(range(64 - len(answered + dropped), 64))
    assert total["drop_reasons"]["shutdown"] == len(dropped) > 0
    store = JobStore(tmp_path)
    (record,) = store.load()
    store.close()
    assert (record.id, record.state) == (job, "queued"), "parked"
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "exceeded" not in log, "nothing had to be cancelled"


async def test_a_server_that_drains_is_not_ready(quantized: QuantizedModel, tmp_path: Path) -> None:
    engine = SlowEngine(quantized)
    server = Server(Config(model="tiny", data_dir=tmp_path, decoders=0), engine, "warning")
    manager = running(server)
    address = manager.__enter__()
    await asyncio.to_thread(wait_ready, address)
    engine.seconds = 1.5  # so long the frame at hand holds up the end
    async with raw(address, START) as socket, httpx.AsyncClient() as client:
        await text(socket)
        await client.get(f"{address}/healthz")
        await socket.send(image(0))
        await eventually(lambda: bool(engine.opened[-1].starts))
        stopping = asyncio.create_task(asyncio.to_thread(manager.__exit__, None, None, None))
        answer = httpx.Response(200)
        while answer.status_code == 200:
            answer = await client.get(f"{address}/readyz")
        assert "shutting down" in answer.json()["detail"]
        messages, code, _ = await until_closed(socket)
        await stopping
    assert messages[-1]["drop_reasons"] == {"shutdown": 1}
    assert code == Close.SHUTDOWN
