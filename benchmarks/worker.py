"""A process that holds one runtime and runs frames when told to.

It reads requests and writes replies, a line of JSON each:

    {"do": "load", "folder": ..., "runtime": ..., "candidate": ...} opens and warms up
    {"do": "pick", ...}                        times the candidates; the reply names the fastest
    {"do": "run", "start": 0, "stop": 8, "keep": true}    frames in order, outputs kept or not
    {"do": "describe"}                         what a runtime of ours has to say at the end

A reply with "error" says what went wrong. Nothing is computed between a reply and a request.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, TextIO

import psutil

from benchmarks.job import Job
from benchmarks.peers import CANDIDATES, PACKAGES

WARM_UP = 3  # frames
_ROUNDS = 3  # of the choice among candidates, each of so many frames
_TIMED = 4


class Worker:
    """One runtime of one job."""

    def __init__(self) -> None:
        self._run: Any = None
        self._job: Job | None = None
        self._runtime = ""

    def load(self, folder: str, runtime: str, candidate: str | None) -> dict[str, Any]:
        """Open a runtime; the reply has its version and how the process grew, in bytes."""
        started = _resident()
        self._job, self._runtime = Job.read(folder), runtime
        packages = PACKAGES.get(runtime, ("resq_core", "torch"))
        importlib.import_module(packages[0])
        imported = _resident()
        if candidate is None:
            from benchmarks.ours import Ours

            self._run = Ours(self._job, runtime)
        else:
            self._run = CANDIDATES[runtime][candidate](self._job)
        self._warm_up(self._run, self._job)
        loaded = _resident()
        return {
            "version": ", ".join(f"{p} {_version(p)}" for p in packages),
            "rss_growth_bytes": loaded - started,
            "rss_growth_without_libraries_bytes": loaded - imported,
        }

    def pick(self, folder: str, runtime: str) -> dict[str, Any]:
        """Best time of every candidate; what cannot be opened gets none, and its reason."""
        job = Job.read(folder)
        runs: dict[str, Callable[..., Any]] = {}
        reasons: dict[str, str] = {}
        for name, candidate in CANDIDATES[runtime].items():
            try:
                runs[name] = candidate(job)
                self._warm_up(runs[name], job)
            except Exception as error:
                reasons[name] = _reason(error)
        if not any(name not in reasons for name in CANDIDATES[runtime]):
            raise RuntimeError("; ".join(f"{n}: {r}" for n, r in reasons.items()))
        spent: dict[str, list[float]] = {name: [] for name in runs if name not in reasons}
        for _ in range(_ROUNDS):
            for name, values in spent.items():
                runs[name](job.frame(0))
                count = min(_TIMED, job.frames)
                values += [_timed(runs[name], job, index)[1] for index in range(count)]
        best = {name: min(values) for name, values in spent.items()}
        chosen = min(best, key=lambda name: best[name])
        return {"candidate": chosen, "candidates_ms": best, "candidates_failed": reasons}

    def run(self, start: int, stop: int, keep: bool) -> dict[str, Any]:
        """Milliseconds of frames `start` to `stop`, after one that is not timed.

        A stream of ours starts afresh at frame 0.
        """
        job = self._job
        assert job is not None
        restart = getattr(self._run, "restart", None)
        if start == 0 and restart is not None:
            restart()
        getattr(self._run, "warm", self._run)(job.frame(start))
        spent, facts = [], []
        for index in range(start, stop):
            output, milliseconds = _timed(self._run, job, index)
            spent.append(milliseconds)
            if keep:
                job.keep(self._runtime, output)
            if restart is not None:
                facts.append(self._run.facts())
        return {"ms": spent, "facts": facts, "shape": list(output.shape)}

    def describe(self) -> dict[str, Any]:
        """State, halo growth and where the time goes, of ours."""
        found: dict[str, Any] = self._run.describe()
        return found

    def _warm_up(self, run: Callable[..., Any], job: Job) -> None:
        for index in range(min(WARM_UP, job.frames)):
            run(job.frame(index))


def _timed(run: Callable[..., Any], job: Job, index: int) -> tuple[Any, float]:
    frame = job.frame(index)
    start = time.perf_counter()
    output = run(frame)
    return output, 1000 * (time.perf_counter() - start)


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _version(package: str) -> str:
    return version("resq" if package == "resq_core" else package)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _answer(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in request.items() if name != "do"}
    try:
        reply: dict[str, Any] = getattr(worker, request["do"])(**arguments)
    except Exception as error:
        return {"error": _reason(error)}
    return reply


def _replies() -> TextIO:
    """The standard output, which libraries that print no longer reach."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def main() -> None:
    """Answer until the input ends."""
    warnings.simplefilter("ignore")  # what libraries say about their own code
    worker = Worker()
    with _replies() as replies, contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            print(json.dumps(_answer(worker, json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
