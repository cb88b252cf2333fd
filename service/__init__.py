"""The streaming service around `resq_core`, and its command line."""

import os

# Before torch loads OpenMP: its threads spin while they wait, and on a machine that does anything
# else at the same time (decoding, a browser, another stream) one frame then takes twenty times as
# long. benchmarks/contention.py measures it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
