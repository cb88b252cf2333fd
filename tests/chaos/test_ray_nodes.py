"""A cluster of Ray whose gateway, machine and head die under load, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.ledger import CountedStream, counted
from service.launch import Launched
from service.messages import StreamStart
from service.protocol import Close
from tests.chaos.conftest import PLAIN, Box, feed
from tests.service.test_streams import raw, until_closed

pytest.importorskip("ray", reason="Ray is not installed: pip install 'resq[ray]'")
pytestmark = pytest.mark.chaos
PORT = 6399  # below the range that Ray gives its workers


def node(*options: str) -> subprocess.Popen[bytes]:
    """A node of the cluster, in a session of its own."""
    ray = str(Path(sys.executable).parent / "ray")
    common = ["--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    return subprocess.Popen([ray, "start", *options, *common], start_new_session=True)


def below(process: subprocess.Popen[bytes], name: str) -> list[psutil.Process]:
    """Processes of a node by what they are."""
    every = psutil.Process(process.pid).children(recursive=True)
    return [p for p in every if name in " ".join(p.cmdline()[:1])]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A head without CPUs, and two nodes with one each; the token of this cluster is its own."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = node("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false")
    started = [head]
    try:
        deadline = time.monotonic() + 60
        while not below(head, "raylet"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(3)
        started += [node(f"--address=127.0.0.1:{PORT}", "--num-cpus=1") for _ in range(2)]
        yield started
    finally:
        for process in reversed(started):  # a node that loses its head waits for it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
        del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]


@pytest.fixture
def gateway(box: Box, nodes: list[subprocess.Popen[bytes]], tmp_path: Path) -> Callable[..., Any]:
    """Start a gateway of the cluster."""
    given = {"engine": "ray", "ray_address": f"127.0.0.1:{PORT}", "ray_workers": 2, "threads": 1}
    return lambda name: box(data_dir=tmp_path / name, **given)


@contextlib.asynccontextmanager
async def busy(address: str, count: int) -> AsyncIterator[list[CountedStream]]:
    """Streams that go on whatever happens; their books balance at the end."""
    async with contextlib.AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(counted(address, StreamStart(outputs=PLAIN)))
            for _ in range(count)
        ]
        feeding = [asyncio.create_task(feed(stream, pause=0.1)) for stream in streams]
        for stream in streams:
            await stream.answered(5)
        yield streams
        for task in feeding:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for stream in streams:
            ledger = await stream.end()
            assert ledger.problems(whole=True) == []
            assert set(ledger.reasons) <= {"superseded", "worker_lost"}


async def until(true: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.2)


async def all_answer(streams: list[CountedStream], seconds: float) -> None:
    """Every stream gets results again."""
    before = [len(stream.ledger.results) for stream in streams]
    both = list(zip(streams, before, strict=True))
    await until(lambda: all(len(s.ledger.results) >= n + 5 for s, n in both), seconds)


async def recovered(streams: list[CountedStream], seconds: float) -> float:
    """Seconds from now until every stream that loses its worker has a result again."""
    began, lost, back = time.monotonic(), dict[int, int](), dict[int, float]()
    while not lost or len(back) < len(lost) or time.monotonic() - max(back.values()) < 1:
        assert time.monotonic() - began < seconds, (lost, back)
        for n, stream in enumerate(streams):
            ledger = stream.ledger
            if n not in lost and ledger.reasons.get("worker_lost", 0):
                lost[n] = len(ledger.results)
            elif n in lost and n not in back and len(ledger.results) > lost[n]:
                back[n] = time.monotonic()
        await asyncio.sleep(0.02)
    return max(back.values()) - began


def ids(server: Launched) -> set[str]:
    return {s["id"] for s in httpx.get(f"{server.address}/v1/streams").json()["streams"]}


async def test_a_gateway_dies(gateway: Callable[..., Any]) -> None:
    with gateway("first") as first, gateway("second") as second:
        async with busy(second.address, 2) as streams:
            with contextlib.suppress(Exception):
                async with counted(first.address, StreamStart(id="gone")) as lost:
                    token = lost.started["resume"]
                    await until(lambda: "gone" in ids(second), 20)
                    first.process.kill()
            began = time.monotonic()
            async with counted(second.address, StreamStart(outputs=PLAIN)) as instead:
                feeding = asyncio.create_task(feed(instead, pause=0.1))
                await instead.answered(1)
                print(f"a gateway died: a result of another after {time.monotonic() - began:.2f} s")
                feeding.cancel()
            await all_answer(streams, 20)
            await until(lambda: "gone" not in ids(second), 40)
            async with raw(second.address, {"type": "stream.start", "resume": token}) as socket:
                messages, code, _ = await until_closed(socket)
            assert (messages[0]["code"], code) == ("unknown_stream", Close.BAD_OPTIONS)


async def test_a_machine_dies(
    gateway: Callable[..., Any], nodes: list[subprocess.Popen[bytes]]
) -> None:
    with gateway("third") as server:
        async with busy(server.address, 4) as streams:
            [raylet] = below(nodes[2], "raylet")
            raylet.kill()
            seconds = await recovered(streams, 60)
            print(f"a machine died: results of all streams that it had after {seconds:.2f} s")
            await all_answer(streams, 20)
        assert sum(stream.ledger.reasons.get("worker_lost", 0) for stream in streams) > 0


async def test_the_head_dies(
    gateway: Callable[..., Any], nodes: list[subprocess.Popen[bytes]]
) -> None:
    with gateway("fourth") as server:
        async with busy(server.address, 2) as streams:
            [store] = below(nodes[0], "gcs_server")
            store.kill()
            await asyncio.sleep(3)
            await all_answer(streams, 20)
            async with busy(server.address, 1) as more:
                await all_answer(more, 20)
