"""Two clients on one server for a minute: memory, state, and every frame accounted for.

    python benchmarks/soak.py --seconds 60

The server runs in a process of its own, so that its memory is its own. One client is live and
faster than the server, the other lossless. Prints one line of JSON; exits 1 if something is not
accounted for, or if the server's memory in the last quarter is over 1 % above the second's.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from resq_core.world import Street
from service.client import ClientStream, Drop, Ended, Result, connect
from service.launch import launch
from service.messages import Outputs, StreamStart

FRAMES = 60
OUTPUTS = Outputs(mask="zlib", bit_map=True)


def pictures(seed: int) -> list[bytes]:
    """A stretch of the drawn street as JPEG."""
    street = Street(seed=seed)
    found = []
    for t in range(FRAMES):
        data = io.BytesIO()
        Image.fromarray(street.frame(t).image).save(data, "JPEG", quality=90)
        found.append(data.getvalue())
    return found


async def client(address: str, mode: str, fps: float, seconds: float, seed: int) -> dict[str, Any]:
    """Stream for some time; counts what was sent and what came back."""
    frames = await asyncio.to_thread(pictures, seed)
    sent = 0

    async def feed(stream: ClientStream) -> None:
        nonlocal sent
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            await stream.send(frames[sent % FRAMES])
            sent += 1
            await asyncio.sleep(max(0.0, start + sent / fps - time.perf_counter()))
        await stream.end()

    results = drops = 0
    ended: Ended | None = None
    options = StreamStart.model_validate({"mode": mode, "outputs": OUTPUTS})
    async with connect(address, options) as stream, asyncio.TaskGroup() as group:
        group.create_task(feed(stream))
        async for answer in stream:
            results += isinstance(answer, Result)
            drops += isinstance(answer, Drop)
            if isinstance(answer, Ended):
                ended = answer
    assert ended is not None
    accounted = sent == ended.received == results + drops == ended.results + ended.drops
    return {
        "mode": mode,
        "sent": sent,
        "results": results,
        "drops": drops,
        "drop_reasons": ended.drop_reasons,
        "saving": round(ended.saving, 4),
        "accounted": accounted,
    }


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


async def watch(pid: int, samples: list[tuple[float, int]]) -> None:
    """Note the memory twice a second."""
    start = time.perf_counter()
    while True:
        samples.append((time.perf_counter() - start, memory(pid)))
        await asyncio.sleep(0.5)


async def soak(address: str, pid: int, seconds: float) -> dict[str, Any]:
    """Run both clients and watch the server."""
    samples: list[tuple[float, int]] = []
    watching = asyncio.create_task(watch(pid, samples))
    clients = await asyncio.gather(
        client(address, "live", 30.0, seconds, 0), client(address, "lossless", 1000.0, seconds, 1)
    )
    watching.cancel()
    times, sizes = np.array(samples).T
    quarter = times[-1] / 4  # the first one loads models and fills both states
    middle = float(np.median(sizes[(times > quarter) & (times < 2 * quarter)]))
    last = float(np.median(sizes[times > 3 * quarter]))
    results = sum(c["results"] for c in clients)
    after = (await asyncio.to_thread(httpx.get, f"{address}/metrics")).text

    def value(name: str) -> float:
        lines = [x for x in after.splitlines() if x.startswith((name + "{", name + " "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    return {
        "seconds": round(float(times[-1]), 1),
        "clients": clients,
        "results_per_second": round(results / float(times[-1]), 2),
        "memory_mib": round(last / 2**20, 1),
        "growth_mib": round((last - middle) / 2**20, 2),
        "streams_active_after": value("resq_streams_active"),
        "cache_bytes_after": value("resq_cache_bytes"),
        "memory_after_mib": round(memory(pid) / 2**20, 1),
    }


def main() -> None:
    """Start a server, soak it, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    with launch() as server:
        report = asyncio.run(soak(server.address, server.pid, seconds))
    print(json.dumps(report))
    fine = all(c["accounted"] for c in report["clients"])
    fine = fine and report["streams_active_after"] == 0 == report["cache_bytes_after"]
    sys.exit(not (fine and report["growth_mib"] < 0.01 * report["memory_mib"]))


if __name__ == "__main__":
    main()
