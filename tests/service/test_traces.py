"""Traces as a real collector gets them, over OTLP; one that is gone or hangs costs nothing."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import subprocess
import sys
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

from service.config import Config
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
        assert facts(asked)["http.response.status_code"] == 404
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
        said = log.read_text("utf-8")
        assert "Traceback" not in said
        assert said.count("opentelemetry.exporter") == 1, "once a minute is enough"


def test_the_share_that_is_kept(tmp_path: Path) -> None:
    with collector() as (address, spans):
        settings = {"traces": address, "traces_ratio": 0, "data_dir": tmp_path / "data"}
        with server(tmp_path / "log", **settings) as ours:
            asyncio.run(one_frame(ours))
        assert spans == []


async def test_what_an_exception_says_stays_here() -> None:
    with collector() as (address, spans):
        traces = open_traces(Config(traces=address))
        assert traces is not None
        with pytest.raises(ValueError, match="hush"), traces.request("GET", {}, "/"):
            raise ValueError("hush")
        traces.close()
    (span,) = spans
    assert span.status.message == "ValueError"
    assert "hush" not in str(span)


def test_it_is_said_when_opentelemetry_is_missing() -> None:
    assert open_traces(Config()) is None
    code = (
        "import sys; sys.modules['opentelemetry.exporter'] = None\n"
        "from service.cli import main; main()"
    )
    given = {"RESQ_TRACES": "http://127.0.0.1:4318/v1/traces", "RESQ_PORT": "x"}
    command = [sys.executable, "-c", code, "serve"]
    done = subprocess.run(
        command, env=os.environ | given, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert "pip install 'resq[otel]'" in done.stderr
    assert "RESQ_PORT is 'x'" in done.stderr
