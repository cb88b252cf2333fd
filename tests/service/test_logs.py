"""What a real server logs: one format for everything, with what it is about, and no secret."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.launch import wait_ready
from service.logs import LogFormat, LogLevel, about, note, noted, set_up_logs
from service.scheduler import Scheduler
from tests.service.test_clips import clip_bytes
from tests.service.test_resume import image, result, text
from tests.service.test_streams import raw

START = {"type": "stream.start", "mode": "lossless", "id": "door"}


@contextmanager
def server(log: Path, **settings: object) -> Iterator[str]:
    """A server's address; it has ended, on SIGTERM, when this has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {f"RESQ_{k.upper()}": str(v) for k, v in settings.items()}
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
    with log.open("wb") as out, subprocess.Popen(command, env=environment, stderr=out) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_ready(address, process)
            yield address
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) in (0, -signal.SIGTERM)
        finally:
            process.kill()


async def one_frame(address: str) -> str:
    """A stream with one frame and one that is none; its resume token."""
    async with raw(address, START) as stream:
        token: str = (await text(stream))["resume"]
        await stream.send(image(0))
        await result(stream)
        await stream.send(json.dumps({"type": "stream.end"}))
        while (await text(stream))["type"] != "stream.ended":
            pass
    return token


def test_lines_of_json_say_what_they_are_about(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with server(log, log_format="json", data_dir=tmp_path / "data") as address:
        token = asyncio.run(one_frame(address))
        sent = {"x-request-id": "ask-1", "authorization": "Bearer hush-hush"}
        answer = httpx.get(f"{address}/v1/clips/none", headers=sent)
        assert answer.headers["x-request-id"] == answer.json()["request_id"] == "ask-1"
        odd = httpx.get(f"{address}/healthz", headers={"x-request-id": "a b\tc"})
        assert re.fullmatch("[0-9a-f]{16}", odd.headers["x-request-id"])
        job = httpx.post(f"{address}/v1/clips", content=clip_bytes(4)).json()["id"]
        deadline = time.monotonic() + 60
        while httpx.get(f"{address}/v1/clips/{job}").json()["state"] != "done":
            assert time.monotonic() < deadline
            time.sleep(0.1)
    raw_log = log.read_text("utf-8")
    lines: list[dict[str, Any]] = [json.loads(line) for line in raw_log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)

    def found(message: str) -> dict[str, Any]:
        return next(line for line in lines if line["message"] == message)

    started, ended = found("stream started"), found("stream ended")
    assert started["stream"] == ended["stream"] == "door"
    assert (started["model"], started["mode"]) == ("street", "lossless")
    assert started["request"] == ended["request"]
    assert (ended["reason"], ended["received"], ended["results"]) == ("ended", 1, 1)
    access = next(line for line in lines if line.get("path") == "/v1/clips/none")
    assert (access["request"], access["status"], access["method"]) == ("ask-1", 404, "GET")
    states = [line["message"] for line in lines if line.get("job") == job]
    assert states == [f"clip job {s}" for s in ("queued", "running", "done")]
    assert found("draining")["streams"] == 0
    assert token not in raw_log
    assert "hush-hush" not in raw_log


def test_a_level_leaves_the_rest_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with server(log, log_level="error", data_dir=tmp_path / "data") as address:
        httpx.get(f"{address}/v1/clips/none")
    assert log.read_text("utf-8") == ""


@pytest.fixture
def ours(capsys: pytest.CaptureFixture[str]) -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = root.handlers, root.level
    yield logging.getLogger("resq.test")
    root.handlers, root.level = before


def test_text_and_exceptions_without_secrets(
    ours: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "resq_0123abcd_" + "f" * 64
    for form in LogFormat:
        set_up_logs(LogLevel.INFO, form)
        with noted(stream=f"cam {secret}"):
            ours.debug("not this")
            try:
                raise ValueError(f"{secret} at rtsp://me:pass@camera/1")
            except ValueError:
                ours.exception("lost %s", secret, extra={"facts": {"why": secret}})
        said = capsys.readouterr().err
        assert "f" * 64 not in said
        assert "not this" not in said
        assert "rtsp://…@camera/1" in said
        assert "ValueError" in said
        assert said.count("resq_0123abcd_…") == 4
        if form is LogFormat.JSON:
            line = json.loads(said)
            assert line["exception"].startswith("Traceback")
            assert line["why"] == "resq_0123abcd_…"


async def test_what_a_worker_logs_is_about_the_same() -> None:
    scheduler = Scheduler(1)
    try:
        note(model="m")
        with noted(stream="a"):
            assert await scheduler.lane().run(lambda: dict(about())) == {
                "model": "m",
                "stream": "a",
            }
        assert await scheduler.lane().run(lambda: dict(about())) == {"model": "m"}
    finally:
        scheduler.close()
