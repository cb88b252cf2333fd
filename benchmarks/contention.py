"""Milliseconds per frame beside a busy process, by how OpenMP's threads wait.

    python benchmarks/contention.py

Runs the float street network with one thread per core while another process keeps one core busy,
and without, each with GOMP_SPINCOUNT unset, 1000 (what the service sets), and no spinning at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

FRAMES = 12
STEP = f"""
import time, torch
from resq_core import models
network = models.build("ddrnet23_slim", num_classes=11).eval()
x = torch.rand(1, 3, 360, 480)
times = []
with torch.no_grad():
    for _ in range({FRAMES}):
        start = time.perf_counter()
        network(x)
        times.append(1000 * (time.perf_counter() - start))
print(sorted(times)[len(times) // 2])
"""


def measure(spins: str | None) -> float:
    """The median in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    if spins is not None:
        environment["GOMP_SPINCOUNT"] = spins
    command = [sys.executable, "-c", STEP]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return round(float(done.stdout), 1)


def main() -> None:
    """Print one line of JSON: spins, alone, beside a busy process."""
    for spins in (None, "1000", "0"):
        alone = measure(spins)
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            beside = measure(spins)
        finally:
            busy.kill()
            busy.wait()
        print(json.dumps({"spins": spins, "alone_ms": alone, "beside_a_busy_process_ms": beside}))


if __name__ == "__main__":
    main()
