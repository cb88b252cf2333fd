"""The processor that this process runs on, and how much of it the process may use."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

__all__ = ["cgroup_cores", "processor_name", "usable_cores"]

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """The processor as the system names it, or else its architecture."""
    try:
        lines = _CPUINFO.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may keep busy, at least 1: its affinity, capped by its cgroup."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cgroup_cores(_CGROUP)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cgroup_cores(root: Path) -> float | None:
    """CPU time per wall time that the cgroup mounted at `root` grants; None for no limit.

    Read as a container sees it, whose own group is the mounted root: `cpu.max` of cgroup v2, or
    the `cpu.cfs_*` pair of v1.
    """
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text("ascii").split()
        else:
            quota, period = (
                (root / "cpu" / f"cpu.cfs_{name}_us").read_text("ascii").strip()
                for name in ("quota", "period")
            )
    except (OSError, ValueError):
        return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)
