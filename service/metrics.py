"""Prometheus metrics of one server, in a registry of their own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from service.messages import Bops
from service.protocol import Close

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.033, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_DEADLINES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 5.0)
_BITS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
_MAX_LAYERS = 64
_REFUSALS = ("capacity", "full", "too_much")


class Inferred(Protocol):
    """What a frame's inference gave."""

    @property
    def is_anchor(self) -> bool: ...
    @property
    def anchor_reason(self) -> str | None: ...
    @property
    def bops(self) -> Bops: ...
    @property
    def mean_bits(self) -> float: ...
    @property
    def active_fraction(self) -> float: ...


class Metrics:
    """Counters and histograms. Labels are from small, known sets; streams have no label."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"resq_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"resq_{name}", text, labels, registry=self.registry)

        def histogram(
            name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
        ) -> Histogram:
            return Histogram(f"resq_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.streams_active = gauge("streams_active", "Streams open now", "model")
        self.streams_ended = counter("streams_ended", "Streams that ended", "model", "reason")
        self.rejects = counter("admission_rejects", "Connections refused", "reason")
        self.frames = counter("frames", "Frames that passed a stage", "model", "stage")
        self.dropped = counter("frames_dropped", "Frames without result", "model", "reason")
        self.stage = histogram("stage_duration_seconds", "Time in a stage", "model", "stage")
        self.latency = histogram("e2e_latency_seconds", "Frame received to result ready", "model")
        self.deadline = histogram(
            "deadline_ratio",
            "Latency as a share of the deadline, where a stream has one",
            "model",
            buckets=_DEADLINES,
        )
        self.anchors = counter("anchors", "Frames run as ResQ keyframes", "model", "reason")
        self.bops = counter("bops", "Bit operations of the network", "model", "frame_type")
        self.baseline = counter("bops_baseline", "Bit operations at W8A8", "model")
        self.policy_bops = counter("policy_bops", "Bit operations of the policy", "model")
        self.worker_cpu = counter(
            "worker_cpu_seconds",
            "Processor time of workers' threads on frames",
            "model",
            "frame_type",
        )
        self.active = histogram(
            "active_pixel_ratio", "Output pixels computed", "model", buckets=_RATIOS
        )
        self.bits = histogram("mean_bits", "Mean bits of a frame", "model", buckets=_BITS)
        self.layer_bits = gauge(
            "layer_bits", "Mean bits in a late residual frame, largest layers", "model", "layer"
        )
        self.cache = gauge("cache_bytes", "Stream state held now", "model")
        self.evictions = counter(
            "cache_evictions", "States given up while a client was away", "model", "reason"
        )
        self.clips = gauge("clip_jobs", "Clip jobs now", "state")
        words = "What this process runs models on"
        self.backend = gauge("backend_info", words, "backend", "isa", "device")
        self.capacity = gauge("capacity_workers", "Workers that declared streams may claim")
        self.reserved = gauge("load_reserved", "Workers that declared streams claim")
        self.measured = gauge("load_measured", "Workers that live streams kept busy lately")
        self.degradation = gauge("degradation_level", "What declared streams are degraded to")
        self.closes = counter("ws_closes", "WebSocket closes by the server", "code")
        self.ready = gauge("ready", "1 where /readyz answers 200, else 0")
        self.decoders = gauge("decoder_processes", "Decoder processes of streams and clips now")
        gauge("build_info", "Which version runs", "version").labels(version("resq")).set(1)
        ProcessCollector(registry=self.registry)
        # a counter that begins with its first event hides that event from rate()
        for refusal in _REFUSALS:
            self.rejects.labels(refusal)
        for code in Close:
            self.closes.labels(str(int(code)))

    def inferred(self, model: str, frame: Inferred) -> None:
        """Count a frame that a model ran on, of a stream or of a clip."""
        self.frames.labels(model, "inferred").inc()
        if frame.anchor_reason is not None:
            self.anchors.labels(model, frame.anchor_reason).inc()
        kind = "anchor" if frame.is_anchor else "residual"
        self.bops.labels(model, kind).inc(frame.bops.frame)
        self.baseline.labels(model).inc(frame.bops.w8a8)
        self.policy_bops.labels(model).inc(frame.bops.policy)
        self.active.labels(model).observe(frame.active_fraction)
        self.bits.labels(model).observe(frame.mean_bits)

    def show_layers(self, model: str, layers: Sequence[dict[str, Any]]) -> None:
        """Note the bits of a residual frame's layers; of a large network those with most MACs."""
        for layer in sorted(layers, key=lambda layer: -layer["macs"])[:_MAX_LAYERS]:
            self.layer_bits.labels(model, layer["name"]).set(layer["mean_bits"])

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
