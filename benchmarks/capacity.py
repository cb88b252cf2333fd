"""Whether `resq plan` and its simulation say beforehand what a load then takes of this machine.

    python -m benchmarks.capacity [--most 4] [--fps 10] [--seconds 15] [--out out/capacity]

First the costs are measured as `resq plan` does it. Then a new server gets N = 1, 2, … live streams
of a street that was not measured, and for each N what was predicted stands beside what
came: processor time of a frame, cores, memory, network, and the times that the server names of a
frame, beside those of the simulation of one worker with this machine's cores.

What is predicted of N is told only N, the frames' active fraction, and how many frames got a
result: where the machine is overloaded, the others cost what every frame does beside a worker's
time. `others` is how many cores all other programs used meanwhile, this one and its clients left
out: where that is not little, the row is disturbed, and its times say little.

Writes OUT/capacity.json and OUT/capacity.md; exits 1 if a prediction of a worker's time, of cores,
memory or network is off by more than 15 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import described
from resq_core.world import Street
from service.client.load import Load, Step
from service.client.load_stream import LoadOptions
from service.commands.cost_measurement import measure_costs
from service.commands.load_frames import drawn_clip
from service.fleet import Fleet
from service.frame_costs import FrameCosts
from service.launch import launch
from service.messages import StreamStart
from service.planning import Demand, Node, plan
from service.simulation import Simulation

__all__ = ["as_markdown", "compare", "judge"]

SEED = 7
MOST_OFF = 0.15


def compare(costs: FrameCosts, row: dict[str, Any], streams: int, fps: float) -> dict[str, Any]:
    """What is predicted of a step of a load beside what came of it; `off` is the relative error."""
    active, server, seconds = row["active_fraction"], row["server"], row["seconds"]
    demand = Demand(streams, fps, costs.period, active, 1.0)
    made = plan(costs, demand, Node(cores=1e6, memory=1e15))
    fleet = Fleet(streams, fps, costs.period, active, 1, costs.cores or 1, share=1)
    simulated = Simulation(costs, fleet).run()
    run, come = row["results_per_second"], row["sent"] / seconds
    worker = server["anchor_cpu_seconds"] + server["residual_cpu_seconds"]
    pairs = {
        "worker_ms": (made.worker_ms, 1000 * worker / row["results"]),
        "cores": ((run * made.worker_ms + come * (costs.other_ms or 0)) / 1000, server["cores"]),
        "memory_mb": (
            made.memory / 1e6,
            (server["server_bytes"] + streams * server["decoder_bytes"]) / 1e6,
        ),
        "in_mbit": (made.inbound / 1e6, 8e-6 * come * row["frame_bytes"]),
        "out_mbit": (run / fps / streams * made.outbound / 1e6, 8e-6 * run * row["result_bytes"]),
    }
    return {
        "streams": streams,
        "active_fraction": active,
        "share": row["results"] / max(row["sent"] + row["drops"].get("skipped", 0), 1),
        "others": round(row["others"], 3),
        "predicted": {name: round(pair[0], 3) for name, pair in pairs.items()},
        "measured": {name: round(pair[1], 3) for name, pair in pairs.items()},
        "off": {name: round(ours / theirs - 1, 4) for name, (ours, theirs) in pairs.items()},
        "simulated_ms": simulated["latency_ms"],
        "simulated_share": simulated["results"] / simulated["due"],
        "server_ms": row["server_ms"],
    }


def judge(rows: list[dict[str, Any]]) -> list[str]:
    """The predictions that are off by too much, in words."""
    return [
        f"{row['streams']} streams: {name} is {row['predicted'][name]:g}, measured "
        f"{row['measured'][name]:g}; expected within {MOST_OFF:.0%}"
        for row in rows
        for name in ("worker_ms", "cores", "memory_mb", "in_mbit", "out_mbit")
        if abs(row["off"][name]) > MOST_OFF
    ]


def as_markdown(result: dict[str, Any]) -> str:
    """The table of docs/capacity.md."""
    lines = [
        "| streams | frames with a result | ms of a worker a frame | cores | memory MB | in Mbit/s "
        "| out Mbit/s | ms in the server p50 / p99 | simulated | others' cores |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [f"{row['streams']}", f"{row['share']:.0%}, simulated {row['simulated_share']:.0%}"]
        for name, digits in (("worker_ms", 1), ("cores", 2), ("memory_mb", 0), ("in_mbit", 2)):
            cells.append(_pair(row, name, digits))
        cells.append(_pair(row, "out_mbit", 2))
        cells += [
            " / ".join(f"{row[name][p]:.0f}" for p in ("p50", "p99"))
            for name in ("server_ms", "simulated_ms")
        ]
        lines.append("| " + " | ".join([*cells, f"{row['others']:.1f}"]) + " |")
    machine = result["machine"]
    head = f"{machine['cpu']}, {machine['cores']} cores; predicted, measured (how far it is off)."
    return "\n".join([head, "", *lines, ""])


def _pair(row: dict[str, Any], name: str, digits: int) -> str:
    ours, theirs = row["predicted"][name], row["measured"][name]
    return f"{ours:.{digits}f}, {theirs:.{digits}f} ({row['off'][name]:+.0%})"


def busy_seconds() -> float:
    """Core seconds that the whole machine has worked since it started: /proc/stat, without idle
    and waiting for disks."""
    fields = Path("/proc/stat").read_text("utf-8").splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, soft, *_ = (int(field) for field in fields)
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


async def load(url: str, options: LoadOptions, most: int, seconds: float) -> list[dict[str, Any]]:
    """Steps of 1, 2, … streams, and what other programs did meanwhile."""
    rows: list[dict[str, Any]] = []
    async with Load(url, None, options) as running:
        for streams in range(1, most + 1):
            first: list[tuple[float, float, float]] = []

            def began(_: float, first: list[tuple[float, float, float]] = first) -> None:
                if not first:
                    first.append((time.monotonic(), busy_seconds(), time.process_time()))

            row = await running.step(Step(streams, seconds), began)
            start, busy, ours = first[0]
            passed = time.monotonic() - start
            all_of_it, own = busy_seconds() - busy, time.process_time() - ours
            row["others"] = max(0.0, (all_of_it - own) / passed - row["server"]["cores"])
            rows.append(row)
            print(json.dumps(row), flush=True)
    if running.problems:
        raise RuntimeError(f"frames are not accounted for: {running.problems}")
    return rows


def main() -> None:
    """Measure, load, compare, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--most", type=int, default=4, help="streams at the same time")
    parser.add_argument("--fps", type=float, default=10.0, help="of each stream")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each number of streams")
    parser.add_argument("--out", type=Path, default=Path("out/capacity"))
    given = parser.parse_args()
    costs = measure_costs(StreamStart(mode="lossless"), None, print)
    options = LoadOptions(StreamStart(mode="live"), given.fps, drawn_clip(Street(seed=SEED)))
    room = {"max_streams": given.most, "streams_per_client": given.most}
    with tempfile.TemporaryDirectory() as folder, launch(data_dir=Path(folder), **room) as server:
        steps = asyncio.run(load(server.address, options, given.most, given.seconds))
    rows = [compare(costs, row, index + 1, given.fps) for index, row in enumerate(steps)]
    broken = judge(rows)
    result = {
        "machine": described(),
        "fps": given.fps,
        "costs": costs.model_dump(),
        "rows": rows,
        "broken": broken,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "capacity.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (given.out / "capacity.md").write_text(as_markdown(result), "utf-8")
    print(as_markdown(result))
    for line in broken:
        print(f"FAILED: {line}", file=sys.stderr)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
