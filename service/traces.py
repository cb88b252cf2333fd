"""Traces for an OpenTelemetry collector: requests, streams, and frames with their stages.

A collector that is slow or gone costs nothing but its spans: they wait in a bounded queue, and what
does not fit is dropped. Without an address nothing here runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from threading import Thread
from typing import TYPE_CHECKING, Any

from service.config import Config
from service.logs import about, noted
from service.messages import ResultMeta

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Tracer

__all__ = ["Traces", "open_traces"]

_QUEUE, _BATCH = 2048, 256  # spans
_EVERY_MS, _EXPORT_SECONDS = 1000, 2.0
_CLOSE_SECONDS = 2.0
_SAY_EVERY = 60.0  # seconds
_STAGES = ("receive", "decode", "queue", "infer", "encode")  # in order, from the frame's arrival


def open_traces(config: Config) -> Traces | None:
    """Where spans of this server go; None without `config.traces`."""
    if config.traces is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    provider = TracerProvider(
        # a stranger's traceparent is followed, and does not decide what is kept
        sampler=TraceIdRatioBased(config.traces_ratio),
        resource=Resource({"service.name": "resq", "service.version": version("resq")}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(str(config.traces), timeout=_EXPORT_SECONDS),
            max_queue_size=_QUEUE,
            max_export_batch_size=_BATCH,
            schedule_delay_millis=_EVERY_MS,
        )
    )
    logging.getLogger(OTLPSpanExporter.__module__).addFilter(_SELDOM)
    return Traces(provider.get_tracer("resq"), provider)


class Traces:
    """Makes spans. `provider` is closed with it."""

    def __init__(self, tracer: Tracer, provider: Any) -> None:
        self._tracer, self._provider = tracer, provider

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str], path: str) -> Iterator[Any]:
        """A span around one request or connection, part of its caller's trace where there is one;
        what is logged inside carries the trace's id."""
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode, format_trace_id

        with (
            self._tracer.start_as_current_span(
                name,
                extract(headers),
                SpanKind.SERVER,
                {"url.path": path, "resq.request": about().get("request", "")},
                record_exception=False,  # its words would leave without redaction
                set_status_on_exception=False,
            ) as span,
            noted(trace=format_trace_id(span.get_span_context().trace_id)),
        ):
            try:
                yield span
            except Exception as error:
                span.set_status(StatusCode.ERROR, type(error).__name__)
                raise

    def frame(self, model: str, meta: ResultMeta) -> None:
        """A span of a frame whose result is ready, in a trace of its own that is linked to the
        connection's, with a child for each stage."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        stages = meta.timings.model_dump()
        end = time.time_ns()
        begin = end - _ns(sum(stages[stage] for stage in _STAGES))
        facts: dict[str, str | int | float | bool] = {
            "resq.stream": about().get("stream", ""),
            "resq.model": model,
            "resq.seq": meta.seq,
            "resq.is_anchor": meta.is_anchor,
            "resq.mean_bits": meta.mean_bits,
            "resq.active_fraction": meta.active_fraction,
            "resq.saving": meta.bops.saving,
        }
        links = self._links()
        span = self._tracer.start_span(
            "frame", Context(), attributes=facts, links=links, start_time=begin
        )
        if span.is_recording():
            inside, at = set_span_in_context(span, Context()), begin
            for stage in _STAGES:
                child = self._tracer.start_span(stage, inside, start_time=at)
                at += _ns(stages[stage])
                child.end(at)
        span.end(end)

    def _links(self) -> list[Link]:
        from opentelemetry.trace import Link, get_current_span

        context = get_current_span().get_span_context()
        return [Link(context)] if context.is_valid else []

    def close(self) -> None:
        """Send what waits, for two seconds at most."""
        closing = Thread(target=self._provider.shutdown, name="resq-traces", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


class _Seldom(logging.Filter):
    """Lets one record pass a minute: a collector that is gone is told again with every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is time."""
        now = time.monotonic()
        due = now >= self._next
        if due:
            self._next = now + _SAY_EVERY
        return due


_SELDOM = _Seldom()


def _ns(milliseconds: float) -> int:
    return round(milliseconds * 1e6)
