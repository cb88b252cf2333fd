"""What the loss of a worker costs the streams that it had.

    python -m benchmarks.ray_faults [--rounds 5] [--streams 4] [--fps 5]

Starts a server with two workers of Ray on this machine and streams, each with a still picture of
its own, whose mask every result has to show. Kills a worker with SIGKILL, round after round, and
prints a line of JSON: seconds from the kill to `stream.reset` (how long Ray needs to know), from
there to the next result (our own code, opening the stream, and an anchor), and their sum. A frame
that is answered twice or not at all, or a mask of another stream, is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.decoding import jpegs
from benchmarks.machine import described
from resq_core.world import Street
from service.client import Result, connect
from service.launch import launch
from service.messages import Drop, Ended, Reset, StreamStart

_AGREE = 0.98  # of a mask's pixels with the stream's first mask; others' agree less, see `main`
_WAIT_SECONDS = 120.0
_TOGETHER_SECONDS = 3.0  # in which all streams of a worker hear that it is lost


@dataclass
class Watched:
    """One stream's client."""

    picture: bytes
    mask: NDArray[np.uint8] | None = None
    results: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    resets: list[float] = field(default_factory=list)
    next_results: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def run(self, address: str, fps: float, over: asyncio.Event) -> None:
        """Stream until it is over."""
        sent, answered = 0, Counter[int]()
        async with connect(address, StreamStart(), patience=0) as client:

            async def send() -> None:
                nonlocal sent
                while not over.is_set():
                    await client.send(self.picture)
                    sent += 1
                    await asyncio.sleep(1 / fps)
                await client.end()

            sending = asyncio.create_task(send())
            async for answer in client:
                if isinstance(answer, Result):
                    answered[answer.meta.seq] += 1
                    self._take(answer)
                elif isinstance(answer, Drop):
                    answered[answer.seq] += 1
                    self.drops[answer.reason] += 1
                elif isinstance(answer, Reset):
                    self.resets.append(time.perf_counter())
                elif isinstance(answer, Ended) and answer.received != sent:
                    self.problems.append(f"{sent} sent, {answer.received} received")
            await sending
        if sorted(answered) != list(range(sent)) or set(answered.values()) - {1}:
            self.problems.append("not every frame was answered once")

    def _take(self, result: Result) -> None:
        self.results += 1
        mask = result.mask
        assert mask is not None
        if self.mask is None:
            self.mask = mask
        elif (mask == self.mask).mean() < _AGREE:
            self.problems.append(f"frame {result.meta.seq} has the mask of another picture")
        if len(self.next_results) < len(self.resets):
            self.next_results.append(time.perf_counter())


def workers(server: int) -> list[psutil.Process]:
    """The processes of the workers below a server."""
    below = psutil.Process(server).children(recursive=True)
    return [p for p in below if p.is_running() and "ray::Worker" in " ".join(p.cmdline()[:1])]


def ready(address: str) -> float:
    """Workers that take streams."""
    load = httpx.get(f"{address}/v1/streams").json()["load"]
    return float(load["workers"])


async def until(true: Callable[[], object], what: str) -> None:
    """Wait until a function gives something true."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_WAIT_SECONDS:.0f} s for {what}")
        await asyncio.sleep(0.05)


async def find_busiest(server: int) -> psutil.Process:
    """The worker with the most to do: one that was started anew has no streams yet."""
    alive = workers(server)
    before = [sum(p.cpu_times()[:2]) for p in alive]
    await asyncio.sleep(1.0)
    used = [sum(p.cpu_times()[:2]) - b for p, b in zip(alive, before, strict=True)]
    return alive[used.index(max(used))]


async def kill_one(server: int, streams: list[Watched]) -> list[tuple[float, float]]:
    """Kill a worker. Seconds to the reset, and from there to the next result, of each stream that
    it had.
    """
    before = [len(stream.resets) for stream in streams]
    busiest = await find_busiest(server)
    killed = time.perf_counter()
    busiest.kill()

    def lost() -> list[Watched]:
        return [s for s, n in zip(streams, before, strict=True) if len(s.resets) > n]

    await until(lost, "a reset")
    await asyncio.sleep(_TOGETHER_SECONDS)
    await until(lambda: all(len(s.next_results) == len(s.resets) for s in streams), "a result")
    return [(s.resets[-1] - killed, s.next_results[-1] - s.resets[-1]) for s in lost()]


async def measure(
    address: str, server: int, streams: list[Watched], args: argparse.Namespace
) -> list[tuple[float, float]]:
    """What `kill_one` gave, round after round."""
    over = asyncio.Event()
    found: list[tuple[float, float]] = []
    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(stream.run(address, args.fps, over))
        await until(lambda: all(stream.results >= 3 for stream in streams), "results")
        for _ in range(args.rounds):
            await until(lambda: ready(address) >= 2, "a second worker")
            await asyncio.sleep(args.pause)
            found += await kill_one(server, streams)
        over.set()
    return found


def main() -> None:
    """Run it; 1 where something was mixed up or lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--pause", type=float, default=8.0, help="seconds before each kill")
    args = parser.parse_args()
    pictures = [Street(seed, size=(240, 320)).frame(0).image for seed in range(args.streams)]
    streams = [Watched(data) for data in jpegs(pictures)]
    with TemporaryDirectory() as folder:
        settings = {"engine": "ray", "ray_workers": 2, "threads": 1, "data_dir": Path(folder)}
        with launch(**settings) as server:
            found = asyncio.run(measure(server.address, server.pid, streams, args))
    masks = [stream.mask for stream in streams if stream.mask is not None]
    alike = max(float((a == b).mean()) for i, a in enumerate(masks) for b in masks[:i])
    problems = [problem for stream in streams for problem in stream.problems]
    if alike >= _AGREE:
        problems.append(f"masks of two streams agree in {alike:.3f}: mixing would not show")
    noticed, resumed = zip(*found, strict=True)
    total = [a + b for a, b in found]
    report = {
        "losses": len(found),
        "to_reset_s": {"median": round(median(noticed), 3), "most": round(max(noticed), 3)},
        "reset_to_result_s": {"median": round(median(resumed), 3), "most": round(max(resumed), 3)},
        "to_next_result_s": {"median": round(median(total), 3), "most": round(max(total), 3)},
        "results": sum(stream.results for stream in streams),
        "drops": dict(sum((stream.drops for stream in streams), Counter[str]())),
        "masks_alike": round(alike, 3),
        "problems": problems[:10],
        "machine": described(),
    }
    print(json.dumps(report))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
