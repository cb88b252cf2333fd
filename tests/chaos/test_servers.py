"""Servers that are killed, or stopped under load: every job goes on, exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import small
from benchmarks.ledger import Ledger, counted
from service.decoder import open_clip
from service.launch import Launched
from service.messages import StreamStart
from tests.chaos.conftest import (
    PLAIN,
    Box,
    dead,
    decoders,
    feed,
    finished,
    indices,
    post,
    settled,
    short,
    warm,
)

pytestmark = pytest.mark.chaos

ROUNDS = 10
JOBS = 6
FRAMES = 360
SEED = 5


def kill(server: Launched) -> None:
    """As the system does it that runs out of memory. Its decoders go with it."""
    children = decoders(server)
    server.process.kill()
    server.process.wait()
    dead(children)


def states(address: str) -> dict[str, dict[str, Any]]:
    """Every job by its id, oldest first."""
    clips = httpx.get(f"{address}/v1/clips", timeout=30).json()["clips"]
    return {clip["id"]: clip for clip in clips}


def go_on(address: str) -> None:
    """Wait until the job at hand has got on: at the same place it may be killed but twice."""
    deadline = time.monotonic() + 60
    begun = {name: clip["results"] for name, clip in states(address).items()}
    while True:
        now = states(address)
        unfinished = [name for name in now if now[name]["state"] != "done"]
        if not unfinished or any(now[n]["results"] > begun[n] + 10 for n in unfinished):
            return
        assert time.monotonic() < deadline, now
        time.sleep(0.02)


def check(address: str, job: str, frames: int, tmp_path: Path) -> None:
    """Done, and each frame stands once in the results and in the video."""
    state = finished(address, job)
    assert (state["state"], state["results"]) == ("done", frames), state
    assert indices(address, job) == list(range(frames))
    report = httpx.get(f"{address}/v1/clips/{job}/report").json()
    assert (report["frames"], report["results"], report["drops"]) == (frames, frames, 0)
    (tmp_path / "v.mp4").write_bytes(httpx.get(f"{address}/v1/clips/{job}/video").content)
    with open_clip(tmp_path / "v.mp4") as video:
        assert len(list(video)) == frames


def test_jobs_survive_kills_at_random_moments(box: Box, tmp_path: Path) -> None:
    rng, data = random.Random(SEED), small.clip(FRAMES)
    jobs: list[str] = []
    for _ in range(ROUNDS):
        with box() as server:
            found = list(states(server.address))
            assert set(jobs) <= set(found), "a job that was accepted is forgotten"
            jobs = found
            go_on(server.address)
            killer = threading.Timer(rng.uniform(0.0, 3.0), kill, (server,))
            killer.start()
            with contextlib.suppress(httpx.TransportError):
                if len(jobs) < JOBS:
                    jobs.append(post(server.address, data, period=4))
                while True:
                    now = {clip["state"] for clip in states(server.address).values()}
                    assert now <= {"uploading", "queued", "running", "done"}, now
                    time.sleep(0.02)
            killer.join()
    with box() as server:
        jobs = list(states(server.address))
        assert JOBS <= len(jobs) <= ROUNDS
        for job in jobs:
            check(server.address, job, FRAMES, tmp_path)
        folders = [f.name for f in (tmp_path / "data" / "clips").iterdir()]
        assert sorted(folders) == sorted(jobs), "a folder without a job"
        asyncio.run(settled(server, None))


async def test_a_stopped_server_tells_everyone_and_parks_its_jobs(
    box: Box, tmp_path: Path, expected: list[str]
) -> None:
    expected.append("timeout graceful shutdown exceeded")  # uvicorn's words about the upload
    with box() as server:
        await warm(server)
        jobs = [
            await asyncio.to_thread(post, server.address, small.clip(FRAMES), period=4)
            for _ in range(2)
        ]
        children = decoders(server)
        ledgers = await asyncio.gather(
            *(
                streaming(server.address, mode, kind)
                for mode in ("live", "lossless")
                for kind in ("image", "h264", "rgb")
            ),
            uploading(server.address),
            stop_soon(server),
        )
        for ledger in ledgers:
            if isinstance(ledger, Ledger):
                assert ledger.problems() == []
                assert ledger.ended is not None
                assert ledger.ended["reason"] == "shutdown"
                assert ledger.close == (1012, "shutdown")
                assert len(ledger.results) > 3
        assert server.process.returncode in (0, -signal.SIGTERM)
        await asyncio.to_thread(dead, children)
    with box() as server:
        for job in jobs:
            await asyncio.to_thread(check, server.address, job, FRAMES, tmp_path)
        names = [c["id"] for c in httpx.get(f"{server.address}/v1/clips").json()["clips"]]
        assert names[1:] == jobs, "half an upload became a job"
        assert sorted(f.name for f in (tmp_path / "data" / "clips").iterdir()) == sorted(names)
        await short(server.address)


async def streaming(address: str, mode: Any, kind: Any) -> Ledger:
    options = StreamStart(mode=mode, input=kind, outputs=PLAIN)
    async with counted(address, options) as stream:
        await feed(stream, pause=0.01)
        async with asyncio.timeout(20):
            await stream.closed.wait()
        return stream.ledger


async def uploading(address: str) -> None:
    """Half a clip, then nothing for as long as the server lets it."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/clips HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + bytes(500_000))
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(30):
            while await reader.read(1000):
                pass
    writer.close()


async def stop_soon(server: Launched) -> None:
    await asyncio.sleep(2.0)
    start = time.monotonic()
    server.process.terminate()
    await asyncio.to_thread(server.process.wait, 40)
    assert time.monotonic() - start < 25
