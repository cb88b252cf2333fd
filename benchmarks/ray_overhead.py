"""What the way over Ray costs a frame, against the engine of one process.

    python -m benchmarks.ray_overhead [--frames 150] [--rounds 3] [--streams 2]

Two servers, one local with two threads and one with two workers of Ray, take turns: in each round
either gets the same JPEGs over as many lossless streams at once. Prints a line of JSON: results per
second in all, milliseconds from a frame sent to its result (p50, p99), CPU seconds per frame of the
server and everything below it, and Ray's share of the local throughput (the median over rounds).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from benchmarks.decoding import jpegs
from benchmarks.machine import described
from resq_core.world import Street
from service.client import Result, connect
from service.launch import Launched, launch
from service.messages import StreamStart

_FRAMES_DRAWN = 40
_ENGINES: dict[str, dict[str, object]] = {
    "local": {"engine": "local", "threads": 2},
    "ray": {"engine": "ray", "threads": 1, "ray_workers": 2},
}


@dataclass
class Figures:
    """Of one engine, over all rounds."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def report(self) -> dict[str, float]:
        """For the JSON."""
        p50, p99 = np.percentile(self.latencies, (50, 99))
        return {
            "fps": round(median(self.rates), 2),
            "p50_ms": round(1000 * p50, 1),
            "p99_ms": round(1000 * p99, 1),
            "cpu_ms_per_frame": round(1000 * median(self.cpu), 1),
        }


async def one(address: str, pictures: list[bytes], frames: int) -> list[float]:
    """Seconds from sent to result, of each frame of a stream."""
    sent: dict[int, float] = {}
    taken: list[float] = []
    async with connect(address, StreamStart(mode="lossless")) as stream:

        async def send() -> None:
            for index in range(frames):
                seq = await stream.send(pictures[index % len(pictures)])
                sent[seq] = time.perf_counter()
            await stream.end()

        sending = asyncio.create_task(send())
        async for answer in stream:
            if isinstance(answer, Result):
                taken.append(time.perf_counter() - sent[answer.meta.seq])
        await sending
    assert len(taken) == frames, "lossless"
    return taken


def cpu_seconds(pid: int) -> float:
    """Of a process and all below it; what ended counts in its parent."""
    server = psutil.Process(pid)
    total = 0.0
    for process in [server, *server.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


async def round_of(
    server: Launched, pictures: list[bytes], streams: int, frames: int, figures: Figures
) -> None:
    """All streams at once."""
    cpu, start = cpu_seconds(server.pid), time.perf_counter()
    found = await asyncio.gather(*(one(server.address, pictures, frames) for _ in range(streams)))
    seconds = time.perf_counter() - start
    figures.rates.append(streams * frames / seconds)
    figures.latencies += [latency for of_stream in found for latency in of_stream]
    figures.cpu.append((cpu_seconds(server.pid) - cpu) / (streams * frames))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=150, help="of each stream in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=2)
    args = parser.parse_args()
    street = Street()
    pictures = jpegs([street.frame(index).image for index in range(_FRAMES_DRAWN)])
    figures = {name: Figures() for name in _ENGINES}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        servers = {
            name: stack.enter_context(launch(data_dir=folder / name, **settings))
            for name, settings in _ENGINES.items()
        }
        for server in servers.values():  # what is planned at a first frame is not of a round
            asyncio.run(round_of(server, pictures, args.streams, 8, Figures()))
        for number in range(args.rounds):
            order = list(servers.items())
            for name, server in order if number % 2 == 0 else reversed(order):
                asyncio.run(round_of(server, pictures, args.streams, args.frames, figures[name]))
    shares = [
        ray / local for ray, local in zip(figures["ray"].rates, figures["local"].rates, strict=True)
    ]
    report = {name: found.report() for name, found in figures.items()}
    share = {"throughput_share": round(median(shares), 3), "shares": [round(s, 3) for s in shares]}
    print(json.dumps({**report, **share, "machine": described()}))


if __name__ == "__main__":
    main()
