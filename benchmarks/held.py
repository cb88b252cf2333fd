"""What a server's process holds, as the system and its own metrics tell it. Linux."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Held", "held", "in_hand", "metric"]


@dataclass(frozen=True, slots=True)
class Held:
    """Of the server's process alone.

    Attributes:
        rss: resident bytes.
        descriptors, threads: how many.
        children: its processes, dead ones that nobody buried included.
    """

    rss: int
    descriptors: int
    threads: int
    children: int

    def counts(self) -> dict[str, int]:
        """All but the memory."""
        return {name: value for name, value in asdict(self).items() if name != "rss"}


def held(pid: int) -> Held:
    """What a process holds now."""
    process = psutil.Process(pid)
    with process.oneshot():
        return Held(
            process.memory_info().rss,
            process.num_fds(),
            process.num_threads(),
            len(process.children()),
        )


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of a metric over its samples with these labels, of what `/metrics` says."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def in_hand(address: str) -> dict[str, Any]:
    """Streams and jobs that the server has in hand by its own account: 0 where nothing is."""
    with httpx.Client(base_url=address, timeout=30) as client:
        text = client.get("/metrics").text
        streams = client.get("/v1/streams").json()["streams"]
    unfinished = ("uploading", "queued", "running")
    return {
        "streams": len(streams),
        "streams_active": metric(text, "resq_streams_active"),
        "cache_bytes": metric(text, "resq_cache_bytes"),
        "jobs": sum(metric(text, "resq_clip_jobs", state=state) for state in unfinished),
    }
