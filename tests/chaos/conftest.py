"""Real servers in processes of their own, and what must be true of one after a fault."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from benchmarks import small
from benchmarks.held import Held, held, in_hand
from benchmarks.ledger import CountedStream, counted
from service.launch import Launched, launch
from service.messages import InputKind, Outputs, StreamStart

Box = Callable[..., AbstractContextManager[Launched]]
PLAIN = Outputs(mask="zlib", bit_map=True)
NOTHING = {"streams": 0, "streams_active": 0, "cache_bytes": 0, "jobs": 0}
MAX_GAP = 5.0  # seconds between two results of a stream beside a fault; two cores, others use them
# pools that grow as they are needed, and stay: threads of asyncio's executor, connections of the
# store with three files each
POOL_THREADS, POOL_DESCRIPTORS = 6, 9
RESIDENT = 150 << 20


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models")
    small.shelve(folder)
    return folder


@pytest.fixture
def box(tmp_path: Path, models: Path) -> Box:
    """Start `resq serve` on a data folder of the test; ends it, killed or not."""

    def start(**settings: Any) -> AbstractContextManager[Launched]:
        given: dict[str, Any] = {"data_dir": tmp_path / "data", "models_dir": models}
        given |= {"model": small.MODEL, "decoders": 1, "max_streams": 32}
        given |= {"streams_per_client": 32, "streams_per_minute": 10_000}
        given |= {"requests_per_minute": 100_000}
        return launch(**given | settings)

    return start


@pytest.fixture(autouse=True)
def expected(capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """No server may say anything unforeseen: a traceback holds one of these words."""
    words: list[str] = []
    yield words
    said = capfd.readouterr().err
    for trace in re.split(r"^(?=(?:  \+ Exception Group )?Traceback )", said, flags=re.M)[1:]:
        assert any(word in trace for word in words), trace[:4000]
    assert "never retrieved" not in said, said[-4000:]


async def feed(stream: CountedStream, seconds: float = 3600.0, pause: float = 0.0) -> None:
    """Send frames in turn until the time or the connection is over."""
    material = small.bodies(stream.started["input"])
    end = time.monotonic() + seconds
    with suppress(ConnectionClosed):
        while time.monotonic() < end:
            for body, meta in material:  # whole turns: an IDR comes first
                await stream.send(body, meta)
                await asyncio.sleep(pause)


async def short(address: str, kind: InputKind = "image") -> None:
    """A whole little stream: sixteen frames, a result each."""
    options = StreamStart(mode="lossless", input=kind, outputs=PLAIN)
    async with counted(address, options) as stream:
        for body, meta in small.bodies(kind):
            await stream.send(body, meta)
        ledger = await stream.end()
    assert ledger.problems(whole=True) == []
    assert len(ledger.results) == 16, ledger.reasons
    assert ledger.close == (1000, "ended")


@asynccontextmanager
async def bystander(address: str) -> AsyncIterator[CountedStream]:
    """A stream beside the fault: it gets a result for every frame, all the time."""
    options = StreamStart(mode="lossless", outputs=Outputs(mask="none"))
    async with counted(address, options) as stream:
        feeding = asyncio.create_task(feed(stream, pause=0.02))
        await stream.answered(3)
        yield stream
        await stream.answered(stream.ledger.answered + 3)
        feeding.cancel()
        with suppress(asyncio.CancelledError):
            await feeding
        ledger = await stream.end()
    assert ledger.problems(whole=True) == []
    assert ledger.drops == {}
    times = sorted(ledger.results.values())
    gap = max(b - a for a, b in pairwise(times))
    assert gap < MAX_GAP, f"no result for {gap:.1f} s"


async def warm(server: Launched, spares: int = 1) -> Held:
    """Use everything once; what the server holds then, at rest."""
    kinds: tuple[InputKind, ...] = ("image", "rgb", "h264", "vp8")
    await asyncio.gather(*(short(server.address, kind) for kind in kinds))
    job = await asyncio.to_thread(post, server.address, small.clip(12))
    await asyncio.to_thread(finished, server.address, job)
    await settled(server, None, spares)
    return held(server.pid)


async def settled(server: Launched, level: Held | None, spares: int = 1) -> None:
    """Wait until the server holds nothing but what it held at that level, and spare decoders."""
    deadline = time.monotonic() + 30
    while True:
        hand, now = await asyncio.to_thread(in_hand, server.address), held(server.pid)
        fine = hand == NOTHING and now.children == spares
        if level is not None:
            fine &= now.descriptors <= level.descriptors + POOL_DESCRIPTORS
            fine &= now.threads <= level.threads + POOL_THREADS
            fine &= now.rss <= level.rss + RESIDENT
        if fine:
            return
        assert time.monotonic() < deadline, (hand, now, level)
        await asyncio.sleep(0.1)


def post(address: str, data: bytes, **options: Any) -> str:
    """Upload a clip; the job's id."""
    answer = httpx.post(f"{address}/v1/clips", params=options, content=data, timeout=60)
    assert answer.status_code == 202, answer.text
    name: str = answer.json()["id"]
    return name


def begun(address: str, job: str, results: int = 1) -> None:
    """Wait until a job has so many results."""
    deadline = time.monotonic() + 60
    while httpx.get(f"{address}/v1/clips/{job}").json()["results"] < results:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finished(address: str, job: str, seconds: float = 120.0) -> dict[str, Any]:
    """Wait for a job's end; its state."""
    deadline = time.monotonic() + seconds
    while True:
        state: dict[str, Any] = httpx.get(f"{address}/v1/clips/{job}", timeout=30).json()
        if state["state"] in ("done", "failed", "cancelled"):
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.02)


def indices(address: str, job: str) -> list[int]:
    """Frames that have a line in a job's results, in order."""
    lines = httpx.get(f"{address}/v1/clips/{job}/results", timeout=30).text.splitlines()
    return [json.loads(line)["index"] for line in lines]


def decoders(server: Launched) -> set[int]:
    """Process ids of the server's decoders, spares included."""
    return {child.pid for child in psutil.Process(server.pid).children()}


def dead(pids: set[int]) -> None:
    """Wait until none of these runs, buried or not."""
    deadline = time.monotonic() + 15
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline, "a decoder outlives its server"
                time.sleep(0.02)
