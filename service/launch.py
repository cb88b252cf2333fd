"""A server in a process of its own, for as long as it is needed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Launched", "launch", "wait_ready"]

_READY_SECONDS = 300.0  # workers elsewhere start first, on a machine that others use as well


@dataclass(frozen=True, slots=True)
class Launched:
    """A server that is ready: where it listens, and its process."""

    address: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid


@contextmanager
def launch(**settings: object) -> Iterator[Launched]:
    """Start `resq serve` on a free port of this machine; end it, if it still runs.

    Args:
        settings: of `service/config.py` by name; for others, RESQ_* variables apply.

    Raises:
        RuntimeError: it ended, or was not ready in time; what it said stands on stderr.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1"]
    environment = os.environ | {f"RESQ_{k.upper()}": str(v) for k, v in settings.items()}
    command += ["--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_ready(address, process)
        yield Launched(address, process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until a server answers that it is ready. Raises RuntimeError as `launch`."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the server was not ready within {_READY_SECONDS:.0f} s")
