"""How many live streams a server sustains at 10 fps, and what happens beyond.

    make load
    python -m benchmarks.load [--clip street-static] [--most 8] [--seconds 20] [--out out/load]

`resq serve` with its defaults in a process of its own; every client is a process of its own as
well, a live stream at 10 fps with a deadline of 500 ms, whose frames are JPEGs of a clip that runs
forth and back. Clients and server share the machine's cores: what the clients burn, the server has
not, and N is that of the box with its clients on it.

- steady: N = 1, 2, … clients. N is sustained if every client gets results for 98 % of its frames.
  Stops after the first N that is not.
- overload: twice the largest N that is sustained; nobody declares a rate, so all are let in.
- declared: as many, and each declares its 10 fps: those that there is no room for are refused.
- reader: one client fewer than that N, with and without one more that never reads, in turn,
  twice each: how much throughput the others lose, and by how much the most that the server held
  grows once that client stops reading, after a quarter of its time.

Latency is from send to result in the client; the stages are the server's own. Writes OUT/load.json,
OUT/load.png, and the tables as OUT/load.md; exits 1 if a limit is broken, and says which: every
client's accounts balance, one client is sustained, the overloaded server keeps the 99th percentile
under the deadline and says of every other frame or client why not, declared clients that were let
in get results for 98 % of their frames, the reader costs the others 5 %
at most and the server 20 MB.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import clips, small
from benchmarks.held import held
from benchmarks.load_client import READS, Order
from benchmarks.machine import described
from benchmarks.plot import draw_load
from service.client.load_figures import Count, summarize
from service.launch import Launched, launch

__all__ = ["as_markdown"]

MODEL, SIZE = "street", (360, 480)
FPS, DEADLINE_MS = 10.0, 500
FRAMES = 60
SUSTAINED = 0.98
MAX_LOSS, MAX_GROWTH_MB = 0.05, 20.0
ROUNDS = 2


class Client:
    """A client's process."""

    def __init__(self, order: Order) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load_client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
        )
        self._say(json.dumps(asdict(order)))
        self._count: dict[str, Any] | None = None

    def wait_ready(self) -> None:
        """Until it got its first result, or was refused and is gone: the end of its process would
        take from the cores what the others' server needs."""
        answer = self._hear()
        if "ready" not in answer:
            self._count = answer
            self._process.wait()

    def go(self) -> None:
        """Let it send."""
        if self._count is None:
            self._say("")

    def count(self) -> Count:
        """What it counted, at its end."""
        found = self._count or self._hear()
        self.close()
        pair = {k: None if found[k] is None else tuple(found[k]) for k in ("refused", "close")}
        return Count(**found | pair)

    def close(self) -> None:
        """End its process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.terminate()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a client ended without a word")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Peak:
    """The most that a server held, looked at four times a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._over = pid, threading.Event()
        self._before: int | None = None
        self._most = held(pid).rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self._most = max(self._most, held(self._pid).rss)

    def mark(self) -> None:
        """From here on it may not grow: what frames take for a while, it has held by now."""
        self._before = self._most

    def growth_mb(self) -> float:
        """By how much the peak grew since `mark`; ends the watch."""
        self._over.set()
        self._thread.join()
        assert self._before is not None
        return (self._most - self._before) / 1e6


def cpu_seconds(pid: int) -> float:
    """Of a server and the decoders that it has now."""
    spent = 0.0
    server = psutil.Process(pid)
    for process in (server, *server.children()):
        times = process.cpu_times()
        spent += times.user + times.system
    return spent


class Load:
    """Rounds of clients on one server.

    Args:
        frames: a file with pickled JPEGs.
        seconds: of each round.
    """

    def __init__(self, server: Launched, frames: str, seconds: float) -> None:
        self._server, self._frames, self._seconds = server, frames, seconds

    def round(self, clients: int, hung: int = 0, declared: bool = False) -> dict[str, Any]:
        """So many clients that read and so many that do not; what came of it."""
        with self._started(clients, hung, declared) as started:
            for client in started:
                client.wait_ready()
            peak, before, start = (
                Peak(self._server.pid),
                cpu_seconds(self._server.pid),
                time.monotonic(),
            )
            for client in started:
                client.go()
                time.sleep(1 / FPS / len(started))  # so that their frames do not come together
            time.sleep(max(0.0, start + READS * self._seconds - time.monotonic()))
            peak.mark()
            time.sleep(max(0.0, start + self._seconds - time.monotonic()))
            cores = (cpu_seconds(self._server.pid) - before) / (time.monotonic() - start)
            counts = [client.count() for client in started]
            growth = peak.growth_mb()
        result = summary(counts[:clients], cores)
        return result | {"growth_mb": round(growth, 2), "hung": hung}

    @contextmanager
    def _started(self, clients: int, hung: int, declared: bool) -> Iterator[list[Client]]:
        started: list[Client] = []
        try:
            for index in range(clients + hung):
                order = Order(
                    self._server.address,
                    MODEL,
                    self._frames,
                    7 * index,
                    FPS,
                    self._seconds,
                    DEADLINE_MS,
                    declares=declared,
                    reads=index < clients,
                )
                started.append(Client(order))
            yield started
        finally:
            for client in started:
                client.close()


def summary(counts: Sequence[Count], cores: float) -> dict[str, Any]:
    """Figures of one round over its clients; fps and shares are of those that were let in."""
    closes = [count.close for count in counts if count.refused is None]
    return summarize(counts) | {
        "cores": round(cores, 2),
        "unsaid": [close for close in closes if close != (1000, "ended")],
    }


def measure(load: Load, most: int) -> dict[str, Any]:
    """All three parts."""
    load.round(1)  # plans, and fills what is filled at first use
    steady: list[dict[str, Any]] = []
    while len(steady) < most:
        steady.append(load.round(len(steady) + 1))
        say("steady", steady[-1])
        if not sustained(steady[-1]):
            break
    best = max((row["clients"] for row in steady if sustained(row)), default=0)
    overload = load.round(2 * max(best, 1))
    say("overload", overload)
    declared = load.round(2 * max(best, 1), declared=True)
    say("declared", declared)
    readers = max(best - 1, 1)
    load.round(readers, 1)  # whatever the server takes for the first of them and keeps
    pairs: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        for hung in (0, 1):
            pairs.append(load.round(readers, hung))
            say("reader" if hung else "alone", pairs[-1])
    return {
        "sustained": best,
        "steady": steady,
        "overload": overload,
        "declared": declared,
        "reader": reader(pairs),
    }


def sustained(row: dict[str, Any]) -> bool:
    """Whether every client was let in and got results for its frames."""
    fine: bool = row["admitted"] == row["clients"] and row["lowest_share"] >= SUSTAINED
    return fine


def reader(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a client that never reads costs, of rounds without and with one."""

    def rate(hung: int) -> float:
        return float(np.mean([row["results_per_second"] for row in pairs if row["hung"] == hung]))

    growth = {hung: [row["growth_mb"] for row in pairs if row["hung"] == hung] for hung in (0, 1)}
    return {
        "readers": pairs[0]["clients"],
        "rounds": list(pairs),
        "alone_per_second": rate(0),
        "beside_per_second": rate(1),
        "loss": 1 - rate(1) / rate(0),
        "growth_alone_mb": max(growth[0]),
        "growth_mb": max(growth[1]),
    }


def judge(result: dict[str, Any]) -> list[str]:
    """The limits that are broken, in words."""
    cost, beyond = result["reader"], {name: result[name] for name in ("overload", "declared")}
    rows = [*result["steady"], *beyond.values(), *cost["rounds"]]
    broken = [f"{row['clients']} clients: {x}" for row in rows for x in row["problems"]]
    if not result["sustained"]:
        broken.append("not even one client is sustained")
    for name, row in beyond.items():
        p99 = row["latency_ms"].get("p99", 0.0)
        if p99 > DEADLINE_MS:
            broken.append(f"{name}: 99 % within {p99:g} ms; expected {DEADLINE_MS} at most")
        if row["sent"] != row["results"] + sum(row["drops"].values()):
            broken.append(f"{name}: frames without result or reason")
        if row["unsaid"]:
            broken.append(f"{name}: streams were closed: {row['unsaid']}")
    share = beyond["declared"]["lowest_share"]
    if share < SUSTAINED:
        broken.append(f"declared: a client that was let in got {100 * share:.0f} % of its frames")
    if cost["loss"] > MAX_LOSS:
        broken.append(
            f"a client that never reads costs the others {100 * cost['loss']:.1f} %; expected "
            f"{100 * MAX_LOSS:g} at most"
        )
    if cost["growth_mb"] > MAX_GROWTH_MB:
        broken.append(
            f"a client that never reads costs the server {cost['growth_mb']:g} MB; expected "
            f"{MAX_GROWTH_MB:g} at most"
        )
    return broken


def as_markdown(result: dict[str, Any]) -> str:
    """The tables of docs/load.md."""
    lines = [
        "| clients | let in | fps each | results | drops | latency p50 / p95 / p99 ms "
        "| in the server p50 / p99 ms | cores | BOPs saved |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in [*result["steady"], result["overload"], result["declared"]]:
        drops = ", ".join(f"{n} {reason}" for reason, n in row["drops"].items() if n) or "none"
        drops += "".join(f"; {n} refused: {why}" for why, n in row["refused"].items())
        ms, inside = row["latency_ms"], row["server_ms"]
        if not ms:
            lines.append(f"| {row['clients']} | 0 | | | {drops} | | | {row['cores']} | |")
            continue
        lines.append(
            f"| {row['clients']} | {row['admitted']} "
            f"| {row['results_per_second'] / row['admitted']:.1f} "
            f"| {row['results']} of {row['sent']} | {drops} "
            f"| {ms['p50']:.0f} / {ms['p95']:.0f} / {ms['p99']:.0f} "
            f"| {inside['p50']:.0f} / {inside['p99']:.0f} "
            f"| {row['cores']} | {100 * row['saving']:.0f} % |"
        )
    cost = result["reader"]
    machine = result["machine"]
    return "\n".join(
        [
            f"{result['clip']}, {MODEL}, {machine['cpu']}, {machine['cores']} cores, "
            f"{result['seconds']:g} s a row; the last rows are the overload, without and with "
            "declared rates.",
            "",
            *lines,
            "",
            f"Sustained at {FPS:g} fps: {result['sustained']} clients. One that never reads beside "
            f"{cost['readers']}: {cost['alone_per_second']:.1f} results per second without it, "
            f"{cost['beside_per_second']:.1f} with it ({100 * cost['loss']:+.1f} % lost); the "
            f"server grew by {cost['growth_mb']:.1f} MB, without it by "
            f"{cost['growth_alone_mb']:.1f} MB.",
            "",
        ]
    )


def say(part: str, row: dict[str, Any]) -> None:
    """A line of progress."""
    names = ("clients", "admitted", "results", "sent", "drops", "latency_ms", "cores", "growth_mb")
    print(json.dumps({"part": part} | {name: row[name] for name in names}), flush=True)


def main() -> None:
    """Draw the clip, start a server, measure, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clip", default="street-static", help="see benchmarks/clips.py")
    parser.add_argument("--most", type=int, default=8, help="clients at the same time")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row")
    parser.add_argument("--out", type=Path, default=Path("out/load"))
    given = parser.parse_args()
    clip = clips.load(given.clip, SIZE, FRAMES)
    pictures = small.jpegs(tuple(clip.pictures))
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames"
        frames.write_bytes(pickle.dumps(pictures + pictures[-2:0:-1]))
        room = {"max_streams": 4 * given.most, "streams_per_client": 4 * given.most}
        with launch(data_dir=Path(folder) / "data", streams_per_minute=100_000, **room) as server:
            result = measure(Load(server, str(frames), given.seconds), given.most)
    result = {
        "machine": described(),
        "clip": clip.name,
        "seconds": given.seconds,
        "fps": FPS,
        "deadline_ms": DEADLINE_MS,
    } | result
    result["broken"] = broken = judge(result)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "load.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (given.out / "load.md").write_text(as_markdown(result), "utf-8")
    draw_load(result, given.out / "load.png")
    print(as_markdown(result))
    for line in broken:
        print(f"FAILED: {line}", file=sys.stderr)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
