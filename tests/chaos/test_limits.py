"""A server that gets no more memory: what it cannot do is said, and over when there is some."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks import small
from benchmarks.ledger import Ledger, Refused, counted
from service.launch import Launched
from service.messages import StreamStart
from tests.chaos.conftest import (
    PLAIN,
    Box,
    begun,
    feed,
    finished,
    indices,
    post,
    settled,
    short,
    warm,
)

pytestmark = pytest.mark.chaos

ROOM = 48 << 20
MEMORY = Path("/sys/fs/cgroup/memory")


@contextlib.contextmanager
def address_space(server: Launched, room: int) -> Iterator[None]:
    """Leave the server so many bytes beyond what it has mapped."""
    process = psutil.Process(server.pid)
    before = process.rlimit(psutil.RLIMIT_AS)
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + room, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_AS, before)


async def attempt(address: str, size: tuple[int, int]) -> Ledger | int:
    """A short stream of large pictures, however it ends; or the code of its refusal."""
    material = small.jpegs(small.drawn(2, size))
    options = StreamStart(mode="lossless", outputs=PLAIN)
    try:
        async with counted(address, options) as stream:
            for body in material * 2:
                await stream.send(body)
            return await stream.end()
    except Refused as refused:
        return refused.code


async def test_a_server_without_memory_says_so_and_recovers(box: Box, expected: list[str]) -> None:
    expected += ["MemoryError", "allocate memory", "can't start new thread"]
    with box(decoders=0) as server:
        address = server.address
        level = await warm(server, spares=0)
        failed = 0
        for room in (ROOM, ROOM // 2, ROOM // 16):
            with address_space(server, room):
                outcomes = await asyncio.gather(*(attempt(address, (1080, 1920)) for _ in range(4)))
                for outcome in outcomes:
                    if isinstance(outcome, Ledger):
                        assert outcome.problems() == []
                        assert outcome.close is not None
                        assert outcome.close[0] in (1000, 1011)
                        failed += outcome.close[0] == 1011
                    else:
                        assert outcome in (1011, 1013)
                        failed += 1
                assert server.process.poll() is None, "the server died"
                assert (await asyncio.to_thread(httpx.get, f"{address}/healthz")).status_code == 200
            await short(address)
        assert failed, "there was memory enough"
        job = await asyncio.to_thread(post, address, small.clip(50))
        assert (await asyncio.to_thread(finished, address, job))["state"] == "done"
        await settled(server, level, spares=0)


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of memory, as containers have one."""
    place = MEMORY / f"resq-{os.getpid()}"
    try:
        place.mkdir()
    except OSError:
        pytest.skip("needs the right to make a control group of memory (v1)")
    yield place
    place.rmdir()


async def test_a_server_that_the_system_ends_for_its_memory_goes_on(box: Box, group: Path) -> None:
    with box() as server:
        job = await asyncio.to_thread(post, server.address, small.clip(300), period=4)
        await asyncio.to_thread(begun, server.address, job, 20)
        (group / "cgroup.procs").write_text(str(server.pid))
        (group / "memory.limit_in_bytes").write_text(str(8 << 20))
        ledgers = []
        with contextlib.suppress(OSError):
            async with counted(
                server.address, StreamStart(mode="lossless", outputs=PLAIN)
            ) as stream:
                ledgers.append(stream.ledger)
                await feed(stream, 60)
        assert await asyncio.to_thread(server.process.wait, 60) == -9
        for ledger in ledgers:
            assert ledger.problems() == []
    with box() as server:
        assert (await asyncio.to_thread(finished, server.address, job))["state"] == "done"
        assert indices(server.address, job) == list(range(300))
        await settled(server, None)
