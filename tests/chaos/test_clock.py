"""A clock that steps, ahead and back, under streams, jobs and restarts."""

from __future__ import annotations

import asyncio
import mmap
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from benchmarks import small
from benchmarks.ledger import counted
from service.messages import StreamStart
from tests.chaos.conftest import (
    PLAIN,
    Box,
    begun,
    bystander,
    feed,
    finished,
    indices,
    post,
    settled,
    warm,
)

pytestmark = pytest.mark.chaos

STEPS = (86_400, -86_400, 3600, -3600, 20 * 86_400, 0)


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Set the wall clock of servers so many seconds off, at once; their steady clock goes on."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("a clock that steps needs Linux and a C compiler")
    library, offset = tmp_path / "clock.so", tmp_path / "offset"
    source = Path(__file__).with_name("clock.c")
    command = [compiler, "-O1", "-fPIC", "-shared", str(source), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    offset.write_bytes(struct.pack("q", 0))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("RESQ_TEST_CLOCK", str(offset))
    with offset.open("r+b") as file, mmap.mmap(file.fileno(), 8) as shared:

        def to(seconds: int) -> None:
            struct.pack_into("q", shared, 0, seconds * 1_000_000_000)

        yield to


def tells(address: str, seconds: int) -> None:
    """Wait until the server's own clock is that far off."""
    deadline = time.monotonic() + 20
    while True:
        answer = httpx.get(f"{address}/healthz")
        told = parsedate_to_datetime(answer.headers["date"])
        off = told - datetime.now(UTC)
        if abs(off - timedelta(seconds=seconds)) < timedelta(seconds=5):
            return
        assert time.monotonic() < deadline, off
        time.sleep(0.1)


async def test_a_clock_that_steps_changes_nothing(
    box: Box, step: Callable[[int], None], tmp_path: Path
) -> None:
    with box() as server:
        address = server.address
        level = await warm(server)
        first = (await asyncio.to_thread(httpx.get, f"{address}/v1/clips")).json()["clips"][0]["id"]
        job = await asyncio.to_thread(post, address, small.clip(600), period=4)
        live = StreamStart(mode="live", deadline_ms=20_000, outputs=PLAIN)
        async with bystander(address) as beside, counted(address, live) as stream:
            feeding = asyncio.create_task(feed(stream, pause=0.02))
            for seconds in STEPS:
                step(seconds)
                await asyncio.to_thread(tells, address, seconds)
                seen = beside.ledger.answered, stream.ledger.answered
                await asyncio.gather(beside.answered(seen[0] + 10), stream.answered(seen[1] + 10))
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            ledger = await stream.end()
        assert ledger.problems(whole=True) == []
        assert set(ledger.drops.values()) <= {"superseded"}, "a deadline went by the wall clock"
        assert (await asyncio.to_thread(finished, address, job))["state"] == "done"
        assert indices(address, job) == list(range(600))
        assert indices(address, first) == list(range(12)), "it is no thirty days old"
        await settled(server, level)


async def test_jobs_of_a_server_whose_clock_went_back_go_on(
    box: Box, step: Callable[[int], None]
) -> None:
    with box() as server:
        await asyncio.to_thread(tells, server.address, 0)
        jobs = [
            await asyncio.to_thread(post, server.address, small.clip(300), period=4)
            for _ in range(2)
        ]
        step(-7200)
        await asyncio.to_thread(tells, server.address, -7200)
        jobs.append(await asyncio.to_thread(post, server.address, small.clip(300), period=4))
        await asyncio.to_thread(begun, server.address, jobs[0], 20)
        server.process.kill()
    step(-86_400)
    with box() as server:
        await asyncio.to_thread(tells, server.address, -86_400)
        for job in jobs:
            assert (await asyncio.to_thread(finished, server.address, job))["state"] == "done"
            assert indices(server.address, job) == list(range(300))
        await settled(server, None)
