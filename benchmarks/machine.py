"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["described"]


def described() -> dict[str, Any]:
    """Processor, cores, instruction sets for int8, system and Python, for the JSON."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), None)
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "int8": sorted(f for f in flags if "vnni" in f or f in ("avx2", "avx512f", "amx_int8")),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
