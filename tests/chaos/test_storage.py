"""A disk that is full and a database that is locked: said, and over when the cause is."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from benchmarks import small
from tests.chaos.conftest import (
    Box,
    begun,
    bystander,
    finished,
    indices,
    post,
    settled,
    short,
    warm,
)

pytestmark = pytest.mark.chaos

DISK = 4 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk needs Linux and the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> Path:
    """Leave no byte."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return ballast


def remembered(folder: Path, job: str) -> str | None:
    """A job's state as the database has it."""
    with sqlite3.connect(folder / "jobs.db") as store:
        row = store.execute("SELECT state FROM resq_jobs WHERE id = ?", (job,)).fetchone()
    store.close()
    return None if row is None else str(row[0])


async def test_a_full_disk_is_said_and_forgotten(box: Box, disk: Path) -> None:
    data = small.clip(300)
    with box(data_dir=disk) as server:
        address = server.address
        level = await warm(server)
        done = (await asyncio.to_thread(httpx.get, f"{address}/v1/clips")).json()["clips"][0]["id"]
        async with bystander(address):
            for _ in range(3):
                job = await asyncio.to_thread(post, address, data, period=4)
                await asyncio.to_thread(begun, address, job, 5)
                ballast = fill(disk)
                state = await asyncio.to_thread(finished, address, job)
                assert state["state"] == "failed"
                assert "disk" in state["error"]
                assert "full" in state["error"]
                fill(disk)  # what the failed job gave back
                for body in (data, bytes(1 << 20)):
                    refused = await asyncio.to_thread(
                        httpx.post, f"{address}/v1/clips", content=body, timeout=60
                    )
                    assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
                assert indices(address, done) == list(range(12)), "reading needs no room"
                ballast.unlink()
                again = await asyncio.to_thread(post, address, data, period=4)
                assert (await asyncio.to_thread(finished, address, again))["state"] == "done"
                assert indices(address, again) == list(range(300))
                for name in (job, again):
                    gone = await asyncio.to_thread(httpx.delete, f"{address}/v1/clips/{name}")
                    assert gone.status_code == 204
        await settled(server, level)
        before = httpx.get(f"{address}/v1/clips").text
    assert [f.name for f in (disk / "clips").iterdir()] == [done]
    with box(data_dir=disk) as server:
        assert httpx.get(f"{server.address}/v1/clips").text == before


async def test_a_server_that_died_on_a_full_disk_goes_on(box: Box, disk: Path) -> None:
    data = small.clip(300)
    with box(data_dir=disk) as server:
        job = await asyncio.to_thread(post, server.address, data, period=4)
        await asyncio.to_thread(begun, server.address, job, 40)
        server.process.kill()
    ballast = fill(disk)
    with box(data_dir=disk) as server:
        state = await asyncio.to_thread(finished, server.address, job)
        assert state["state"] == "failed"
        assert "full" in state["error"]
        ballast.unlink()
        again = await asyncio.to_thread(post, server.address, data, period=4)
        assert (await asyncio.to_thread(finished, server.address, again))["state"] == "done"


LOCKER = """
import sqlite3, sys
store = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
store.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process that holds the database's write lock."""
    command, pipe = [sys.executable, "-c", LOCKER, str(path)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        yield


async def test_a_locked_database_is_said_and_forgotten(box: Box, tmp_path: Path) -> None:
    data, store = small.clip(300), tmp_path / "data" / "jobs.db"
    with box() as server:
        address = server.address
        level = await warm(server)
        async with bystander(address):
            for _ in range(2):
                job = await asyncio.to_thread(post, address, data, period=4)
                await asyncio.to_thread(begun, address, job, 5)
                with locked(store):
                    refused = await asyncio.to_thread(
                        httpx.post, f"{address}/v1/clips", content=data, timeout=60
                    )
                    assert (refused.status_code, refused.json()["code"]) == (
                        503,
                        "store_unavailable",
                    )
                    state = await asyncio.to_thread(finished, address, job)
                    assert state["state"] == "failed"
                    assert "locked" in state["error"]
                    assert remembered(tmp_path / "data", job) == "running"
                deadline = time.monotonic() + 30
                while remembered(tmp_path / "data", job) != "failed":
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.1)
                again = await asyncio.to_thread(post, address, data, period=4)
                with locked(store):  # for less than it waits
                    await asyncio.sleep(2.0)
                assert (await asyncio.to_thread(finished, address, again))["state"] == "done"
                assert indices(address, again) == list(range(300))
        await settled(server, level)


async def test_a_server_killed_while_the_database_was_locked(box: Box, tmp_path: Path) -> None:
    data, store = small.clip(300), tmp_path / "data" / "jobs.db"
    with box() as server:
        job = await asyncio.to_thread(post, server.address, data, period=4)
        await asyncio.to_thread(begun, server.address, job, 20)
        with locked(store):
            await asyncio.sleep(1.0)
            server.process.kill()
            server.process.wait()
    with box() as server:
        state = await asyncio.to_thread(finished, server.address, job)
        assert state["state"] == "done"
        assert indices(server.address, job) == list(range(300))
        await short(server.address)
