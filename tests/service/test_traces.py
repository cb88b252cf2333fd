"""Traces as a real collector gets them, over OTLP; one that is gone or hangs costs nothing."""

from __future__ import annotations

import asyncio
import builtins
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.config import Config, ConfigError
from service.traces import open_traces
from tests.service.test_logs import one_frame, server


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Its address, and the spans that it got."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1/traces", spans
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def facts(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


def test_a_collector_gets_requests_and_frames(tmp_path: Path) -> None:
    caller = f"00-{'a' * 32}-{'b' * 16}-01"
    with collector() as (address, spans):
        with server(tmp_path / "log", traces=address, data_dir=tmp_path / "data") as ours:
            asyncio.run(one_frame(ours))
            httpx.get(f"{ours}/v1/clips/none", headers={"traceparent": caller})
        named = {span.name: span for span in spans}
        frame = named["frame"]
        assert facts(frame)["resq.stream"] == "door"
        assert facts(frame)["resq.is_anchor"] is True
        assert facts(frame)["resq.mean_bits"] == 8.0
        stages = [span for span in spans if span.parent_span_id == frame.span_id]
        assert [s.name for s in stages] == ["receive", "decode", "queue", "infer", "encode"]
        assert stages[0].start_time_unix_nano == frame.start_time_unix_nano
        assert all(a.end_time_unix_nano == b.start_time_unix_nano for a, b in pairwise(stages))
        connection = named["WEBSOCKET /v1/streams"]
        assert [link.span_id for link in frame.links] == [connection.span_id]
        assert frame.trace_id != connection.trace_id
        asked = named["GET /v1/clips/{name}"]
        assert asked.trace_id.hex() == "a" * 32
        assert asked.parent_span_id.hex() == "b" * 16


@pytest.mark.parametrize("hangs", [False, True])
def test_a_collector_that_is_gone_costs_nothing(tmp_path: Path, hangs: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        if not hangs:
            silent.close()
        log, begin = tmp_path / "log", 0.0
        with server(log, traces=address, data_dir=tmp_path / "data") as ours:
            asyncio.run(one_frame(ours))
            time.sleep(1.5)  # the first batch is being refused, or hangs
            asyncio.run(one_frame(ours))
            begin = time.monotonic()
        assert time.monotonic() - begin < 15
        assert "Traceback" not in log.read_text("utf-8")


def test_the_share_that_is_kept(tmp_path: Path) -> None:
    with collector() as (address, spans):
        settings = {"traces": address, "traces_ratio": 0, "data_dir": tmp_path / "data"}
        with server(tmp_path / "log", **settings) as ours:
            asyncio.run(one_frame(ours))
        assert spans == []


def test_it_is_said_when_opentelemetry_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_traces(Config()) is None
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'resq\[otel\]'"):
        open_traces(Config(traces="http://127.0.0.1:4318/v1/traces"))
