"""The workers of a comparison, as the leading process sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from service.closing import Closing

__all__ = ["WorkerError", "WorkerProcess"]

_ROOT = Path(__file__).resolve().parents[1]

_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY")
"""How idle threads wait is left to each runtime's own default, which suits it when alone."""


class WorkerError(RuntimeError):
    """A worker could not do what it was told; the message is its reason."""


class WorkerProcess(Closing):
    """A process of its own for one runtime; see `benchmarks.worker` for what it can be told."""

    def __init__(self, threads: int) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in _WAITING}
        environment["OMP_NUM_THREADS"] = str(threads)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the reply.

        Raises WorkerError if it could not be carried out, or the process ended.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the process ended with exit status {process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
