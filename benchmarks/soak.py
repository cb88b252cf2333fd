"""Streams and jobs come and go at random for half an hour: nothing may stay of them.

    make soak SOAK_SECONDS=1800
    python -m benchmarks.soak [--seconds 1800] [--guests 6] [--out out/soak]

`resq serve` runs in a process of its own, with the street model at a small size. Guests visit it
(`benchmarks.visits`), each one visit after another: streams of every input, live and lossless,
some with bad frames, some that vanish, never read or never send; clip jobs that are read or
deleted; uploads that break off. A tenth of the time warms the server up; then, with nobody there,
its descriptors, threads, processes and memory are its level. At the end, with nobody there, it
must be back at that level.

Writes OUT/soak.json and OUT/soak.png; exits 1 if a limit is broken, and says which. Limits:
every visit's accounts balance; descriptors, threads and processes back to their level; no stream,
no place, no job and no stream state left in the server's own gauges; resident memory with nobody
there not over 5 % above its level, and its least-squares slope not over 20 MB/h beyond twice its
standard error; at least a start every second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import small
from benchmarks.held import Held, held, in_hand
from benchmarks.machine import described
from benchmarks.plot import draw_soak
from benchmarks.visits import Guest
from service.launch import Launched, launch

__all__ = ["slope"]

SPARES = 2
TIMEOUT = 5.0  # of the server, for silent clients and such that do not read
QUIET_SECONDS = 60.0
BLOCKS = 40  # of samples: neighbours in time are much alike, blocks less so

MAX_GROWTH = 0.05
MAX_SLOPE = 20.0  # MB/h
MIN_STARTS = 1.0  # each second
EXTRA = {"descriptors": 6, "threads": 2, "children": 0}  # a pool's last connections and threads


def slope(times: Sequence[float], sizes: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope of sizes over times, and its standard error, over means of blocks.

    Raises ValueError for fewer than three samples.
    """
    if len(times) < 3:
        raise ValueError(f"{len(times)} samples; expected at least 3")
    blocks = np.array_split(np.array([times, sizes], float).T, min(BLOCKS, len(times)))
    x, y = np.array([block.mean(0) for block in blocks]).T
    dx = x - x.mean()
    found = float(dx @ y / (dx @ dx))
    rest = y - y.mean() - found * dx
    return found, float(np.sqrt(rest @ rest / (len(x) - 2) / (dx @ dx)))


class Watch:
    """Notes what a server holds, once a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._start = pid, time.monotonic()
        self.times: list[float] = []
        self.found: list[Held] = []
        self.warm = 0.0  # when the warm-up was over

    @property
    def now(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._start

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.times.append(self.now)
            self.found.append(held(self._pid))
            await asyncio.sleep(1.0)


async def visit(guests: Sequence[Guest], seconds: float) -> None:
    """Visits of all guests; those that run when the time is over run to their end."""
    end = time.monotonic() + seconds

    async def stay(guest: Guest) -> None:
        while time.monotonic() < end:
            await guest.visit()

    await asyncio.gather(*map(stay, guests))


async def quiet(server: Launched) -> tuple[Held, dict[str, Any]]:
    """What the server holds with nobody there, and what it says it has in hand."""
    deadline = time.monotonic() + QUIET_SECONDS
    while True:
        await asyncio.sleep(2.0)
        hand, now = await asyncio.to_thread(in_hand, server.address), held(server.pid)
        if (not any(hand.values()) and now.children == SPARES) or time.monotonic() > deadline:
            await asyncio.sleep(3.0)  # connections that were closed are gone by now
            return held(server.pid), hand


async def soak(server: Launched, seconds: float, count: int) -> dict[str, Any]:
    """Warm up, take the level, soak, compare."""
    guests = [Guest(server.address, seed, 2 * TIMEOUT) for seed in range(count)]
    watch = Watch(server.pid)
    watching = asyncio.create_task(watch.run())
    await visit(guests, seconds / 10)
    level, _ = await quiet(server)
    watch.warm, early = watch.now, sum(guest.starts for guest in guests)
    await visit(guests, seconds * 9 / 10)
    spent = watch.now - watch.warm
    watching.cancel()
    after, hand = await quiet(server)
    return report(guests, watch, level, after, hand) | {
        "starts_per_second": (sum(guest.starts for guest in guests) - early) / spent
    }


def report(
    guests: Sequence[Guest], watch: Watch, level: Held, after: Held, hand: dict[str, Any]
) -> dict[str, Any]:
    """Everything that was found, for the JSON and the plot."""
    warm = [i for i, t in enumerate(watch.times) if t >= watch.warm]
    times = [watch.times[i] for i in warm]
    found, error = slope(times, [watch.found[i].rss for i in warm])

    def total(name: str) -> int:
        return sum(getattr(guest, name) for guest in guests)

    def counts(name: str) -> dict[str, int]:
        return dict(sum((getattr(guest, name) for guest in guests), Counter()))

    return {
        "seconds": round(watch.times[-1], 1),
        "warm_after": round(watch.warm, 1),
        "starts": total("starts"),
        "ends": total("ends"),
        "frames": total("frames"),
        "results": total("results"),
        "drops": counts("drops"),
        "visits": counts("visits"),
        "jobs": counts("jobs"),
        "problems": [problem for guest in guests for problem in guest.problems],
        "level": asdict(level),
        "after": asdict(after),
        "in_hand_after": hand,
        "slope_mb_per_hour": round(found * 3600 / 1e6, 2),
        "slope_error_mb_per_hour": round(error * 3600 / 1e6, 2),
        "samples": [
            {"seconds": round(t, 1), **asdict(now)}
            for t, now in zip(watch.times, watch.found, strict=True)
        ],
    }


def judge(result: dict[str, Any]) -> list[str]:
    """The limits that are broken, in words."""
    level, after = result["level"], result["after"]
    broken = [f"{len(result['problems'])} accounts do not balance"] if result["problems"] else []
    broken += [
        f"{after[name]} {name} with nobody there, {level[name]} before; expected {extra} more "
        "at most"
        for name, extra in EXTRA.items()
        if after[name] > level[name] + extra
    ]
    broken += [f"{value} {name} left" for name, value in result["in_hand_after"].items() if value]
    if result["starts"] != result["ends"]:
        broken.append(f"{result['starts']} streams began, {result['ends']} ended")
    grown = after["rss"] / level["rss"] - 1
    if grown > MAX_GROWTH:
        broken.append(f"memory grew by {100 * grown:.1f} %; expected {100 * MAX_GROWTH:g} at most")
    rise, error = result["slope_mb_per_hour"], result["slope_error_mb_per_hour"]
    if rise - 2 * error > MAX_SLOPE:
        broken.append(f"memory rises by {rise:g} ± {error:g} MB/h; expected {MAX_SLOPE:g} at most")
    if result["starts_per_second"] < MIN_STARTS:
        broken.append(
            f"{result['starts_per_second']:.2f} starts per second; expected {MIN_STARTS:g} at least"
        )
    return broken


def main() -> None:
    """Start a server, soak it, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--guests", type=int, default=6, help="visits at the same time")
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small.shelve(Path(folder) / "models")
        with launch(
            data_dir=Path(folder) / "data",
            models_dir=Path(folder) / "models",
            model=small.MODEL,
            decoders=SPARES,
            idle_timeout=TIMEOUT,
            send_timeout=TIMEOUT,
            max_streams=4 * given.guests,
            streams_per_client=4 * given.guests,
            streams_per_minute=100_000,
            requests_per_minute=1_000_000,
            max_clips_kept=10,
        ) as server:
            result = asyncio.run(soak(server, given.seconds, given.guests))
    broken = judge(result)
    result = {"machine": described(), "broken": broken} | result
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "soak.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    draw_soak(result, given.out / "soak.png")
    shown = {k: v for k, v in result.items() if k not in ("samples", "problems", "machine")}
    print(json.dumps(shown, indent=1))
    for problem in result["problems"][:20]:
        print(problem, file=sys.stderr)
    for line in broken:
        print(f"FAILED: {line}", file=sys.stderr)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
