"""The streaming service around `resq_core`, and its command line."""

import os

DEFAULT_URL = "http://127.0.0.1:8000"
"""Where clients look for a server."""

# Before torch loads OpenMP: its threads spin for milliseconds while they wait, and on a machine
# that does anything else at the same time (decoding, a browser, another stream) a frame then takes
# many times as long. A short spin costs little when alone; benchmarks/contention.py measures both.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
