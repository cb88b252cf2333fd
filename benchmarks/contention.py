"""Milliseconds per frame beside a busy process, by how OpenMP's threads wait.

    python benchmarks/contention.py

Runs the float street network with one thread per core while another process keeps one core busy,
and without, each with OMP_WAIT_POLICY ACTIVE, PASSIVE (what the service sets) and unset.
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


def measure(policy: str | None) -> float:
    """The median in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-c", STEP]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return round(float(done.stdout), 1)


def main() -> None:
    """Print one line of JSON: policy, alone, beside a busy process."""
    for policy in (None, "ACTIVE", "PASSIVE"):
        alone = measure(policy)
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            beside = measure(policy)
        finally:
            busy.kill()
            busy.wait()
        print(json.dumps({"policy": policy, "alone_ms": alone, "beside_a_busy_process_ms": beside}))


if __name__ == "__main__":
    main()
