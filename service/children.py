"""What the server's own processes take: their processor time and memory, for its metrics."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["Children"]

_PROC = Path("/proc")
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_CPU = (
    "resq_decoder_cpu_seconds",
    "Processor time of decoder processes in use, and of those that ended",
)
_MEMORY = "resq_decoder_memory_bytes", "Memory that decoder processes in use have for themselves"


class Children(Collector):
    """Processor time and memory of child processes, as the system counts them when it is asked.

    Where there is no /proc, only the time of those that have ended is known.

    Args:
        pids: of the children that run.
    """

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids

    def describe(self) -> Iterator[Metric]:
        """The metrics without values, which a registry asks for."""
        yield CounterMetricFamily(*_CPU)
        yield GaugeMetricFamily(*_MEMORY)

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds, held = ended.ru_utime + ended.ru_stime, 0
        for pid in self._pids():
            try:
                seconds += _cpu_seconds(pid)
                held += _private_bytes(pid)
            except OSError:  # it has ended
                continue
        yield CounterMetricFamily(*_CPU, value=seconds)
        yield GaugeMetricFamily(*_MEMORY, value=held)


def _cpu_seconds(pid: int) -> float:
    """Of a process in user and kernel mode: fields 14 and 15 of proc(5)'s stat; the second, its
    name, is in brackets and may hold anything."""
    fields = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _private_bytes(pid: int) -> int:
    """Resident less shared: code and libraries are in memory once for all of them."""
    fields = (_PROC / str(pid) / "statm").read_text("utf-8").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE
