"""What a server says of itself at /metrics: its processor time, its memory, its state."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.client.errors import RemoteError
from service.client.rest import Rest

__all__ = ["ServerFigures"]

_CPU = ("process_cpu_seconds_total", "resq_decoder_cpu_seconds_total")
_WORKER = "resq_worker_cpu_seconds_total"
_MAX_TEXT = 4 << 20


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """At one moment, of the server's process and its decoders.

    Attributes:
        at: seconds of `time.monotonic`.
        cpu_seconds: of all of them since they started; of it, `anchor_seconds` and
            `residual_seconds`: of the workers' threads on ResQ keyframes and on residual frames.
        server_bytes: resident, of the server's process.
        decoder_bytes: of all decoders, what they share left out; `decoders`: those in use.
        state_bytes: of all streams; `streams`: how many.
    """

    at: float
    cpu_seconds: float
    anchor_seconds: float
    residual_seconds: float
    server_bytes: float
    decoder_bytes: float
    decoders: float
    state_bytes: float
    streams: float

    @classmethod
    async def read(cls, rest: Rest) -> ServerFigures | None:
        """Ask a server; None where it does not tell this caller, or its system counts nothing."""
        try:
            async with rest.stream("GET", "/metrics") as answer:
                text = (await answer.aread())[:_MAX_TEXT].decode("utf-8", "replace")
        except (RemoteError, httpx.TransportError):
            return None
        return cls.parse(text, time.monotonic())

    @classmethod
    def parse(cls, text: str, at: float) -> ServerFigures | None:
        """Of what /metrics says, in the text exposition format."""
        sums: dict[str, float] = {}
        kinds: dict[str, float] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
                    if sample.name == _WORKER:
                        kind = sample.labels.get("frame_type", "")
                        kinds[kind] = kinds.get(kind, 0.0) + sample.value
        except ValueError:  # no exposition format
            return None
        if not set(_CPU) <= set(sums):
            return None
        return cls(
            at=at,
            cpu_seconds=sum(sums[name] for name in _CPU),
            anchor_seconds=kinds.get("anchor", 0.0),
            residual_seconds=kinds.get("residual", 0.0),
            server_bytes=sums.get("process_resident_memory_bytes", 0.0),
            decoder_bytes=sums.get("resq_decoder_memory_bytes", 0.0),
            decoders=sums.get("resq_decoder_processes", 0.0),
            state_bytes=sums.get("resq_cache_bytes", 0.0),
            streams=sums.get("resq_streams_active", 0.0),
        )
