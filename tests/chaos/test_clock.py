"""A clock that steps, ahead and back, under streams, jobs and restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from benchmarks import small
from benchmarks.ledger import counted
from service.messages import StreamStart
from tests.chaos.conftest import PLAIN, Box, bystander, feed, finished, indices, post, settled, warm

pytestmark = pytest.mark.chaos

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
STEPS = (86_400, -86_400, 3600, -3600, 20 * 86_400, 0)


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the wall clock of servers so many seconds off, at once; their steady clock goes on."""
    if FAKETIME is None:
        pytest.skip("needs libfaketime; on Debian: apt-get install faketime")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")

    def to(seconds: int) -> None:
        part = offset.with_name("offset.part")
        part.write_text(f"{seconds:+d}")
        part.replace(offset)

    return to


def tells(address: str, seconds: int) -> None:
    """Wait until the server's own clock is that far off."""
    deadline = time.monotonic() + 20
    while True:
        answer = httpx.get(f"{address}/healthz")
        told = parsedate_to_datetime(answer.headers["date"])
        off = told - datetime.now(timezone.utc)
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
                seen = len(beside.ledger.results), len(stream.ledger.results)
                async with asyncio.timeout(30):
                    while (
                        len(beside.ledger.results) < seen[0] + 10
                        or len(stream.ledger.results) < seen[1] + 10
                    ):
                        await asyncio.sleep(0.05)
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
        deadline = time.monotonic() + 60
        while httpx.get(f"{server.address}/v1/clips/{jobs[0]}").json()["results"] < 20:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        server.process.kill()
    step(-86_400)
    with box() as server:
        await asyncio.to_thread(tells, server.address, -86_400)
        for job in jobs:
            assert (await asyncio.to_thread(finished, server.address, job))["state"] == "done"
            assert indices(server.address, job) == list(range(300))
        await settled(server, None)
