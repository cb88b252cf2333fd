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
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.keys import Scope, add_key
from service.launch import wait_ready
from service.logs import LogFormat, LogLevel, about, note, noted, set_up_logs
from service.scheduler import Scheduler
from tests.service.test_clips import clip_bytes
from tests.service.test_resume import image, result, text
from tests.service.test_streams import raw, until_closed

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


def test_every_line_of_a_stream_says_so_and_none_holds_a_frame_or_a_secret(tmp_path: Path) -> None:
    """At `debug`, where libraries would log messages: refusals, a lost decoder, a resumed one."""
    key, log = add_key(tmp_path / "data", "wall", tuple(Scope))[1], tmp_path / "log"
    settings = {"log_format": "json", "log_level": "debug", "data_dir": tmp_path / "data"}
    bearer = {"authorization": f"Bearer {key}"}
    with server(log, **settings, decoders=0, allowed_hosts="127.0.0.1") as address:
        tokens = asyncio.run(_adventures(address, bearer))
        _pull_from_nowhere(address, bearer)
    whole = log.read_text("utf-8")
    lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]

    def only(message: str, **facts: str) -> dict[str, Any]:
        found = [
            x for x in lines if x["message"].startswith(message) and facts.items() <= x.items()
        ]
        assert len(found) == 1, (message, facts)
        return found[0]

    assert only("stream refused", code="no_key")["request"] == "stranger"
    refused = only("stream refused", code="bad_options")
    assert (refused["stream"], refused["key_name"]) == ("wrong", "wall")
    lost = only("decoder process")
    assert (lost["stream"], lost["model"], lost["request"]) == ("dies", "street", "first")
    assert only("stream ended", stream="dies")["reason"] == "decoder_crashed"
    started = only("stream started", stream="back")
    assert (started["request"], started["key_name"]) == ("second", "wall")
    assert only("stream resumed", stream="back")["request"] == "third"
    assert only("stream ended", stream="back")["request"] == "third"
    away = next(line for line in lines if line["message"] == "source lost")
    assert (away["stream"], away["request"], away["level"]) == ("pulled", "fourth", "warning")
    assert "does not answer" in away["why"]
    assert "hush" not in whole
    assert any(line["level"] == "debug" for line in lines)
    for secret, part in ((key.split("_")[2], 12), *((token, 6) for token in tokens)):
        assert not any(secret[i : i + part] in whole for i in range(len(secret) - part))
    assert "BINARY" not in whole
    assert "stream.started" not in whole


async def _adventures(address: str, bearer: dict[str, str]) -> list[str]:
    """Streams with one fate each; the tokens that could have resumed them."""

    def one(start: dict[str, Any] | None, request: str, headers: dict[str, str] = bearer) -> Any:
        sent = [] if start is None else [start]
        return raw(address, *sent, headers=headers | {"x-request-id": request})

    async with one(None, "stranger", {}) as stream:
        await until_closed(stream)
    async with one({**START, "id": "wrong", "model": "none"}, "typo") as stream:
        await until_closed(stream)
    async with one({**START, "id": "dies"}, "first") as stream:
        tokens = [(await text(stream))["resume"].removeprefix("resume_")]
        await stream.send(image(0))
        await result(stream)
        for child in psutil.Process().children():  # the server; it keeps no spare decoders
            for decoder in child.children():
                decoder.kill()
        await stream.send(image(1))
        await until_closed(stream)
    async with one({**START, "id": "back"}, "second") as stream:
        token = (await text(stream))["resume"]
        stream.transport.abort()
    async with one({"type": "stream.start", "resume": token}, "third") as stream:
        assert (await text(stream))["id"] == "back"
        await stream.send(json.dumps({"type": "stream.end"}))
        await until_closed(stream)
    return [*tokens, token.removeprefix("resume_")]


def _pull_from_nowhere(address: str, bearer: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    wanted = {"url": f"http://me:hush@127.0.0.1:{port}/a?token=hush", "id": "pulled"}
    headers = bearer | {"x-request-id": "fourth"}
    with httpx.Client(base_url=address, headers=headers) as client:
        assert client.post("/v1/streams", json=wanted).status_code == 201
        deadline = time.monotonic() + 30
        while client.get("/v1/streams/pulled").json()["source"]["state"] != "retrying":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.delete("/v1/streams/pulled").status_code == 204


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
    logging.captureWarnings(False)


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
        assert said.isascii() or form is LogFormat.TEXT
        assert "not this" not in said
        assert "@camera/1" in said
        assert "me:pass" not in said
        assert "ValueError" in said
        if form is LogFormat.TEXT:
            assert said.count("resq_0123abcd_…") == 4
        else:
            line = json.loads(said)
            assert line["message"] == "lost resq_0123abcd_…"
            assert line["stream"] == "cam resq_0123abcd_…"
            assert line["exception"].startswith("Traceback")
            assert line["why"] == "resq_0123abcd_…"


def test_nobody_writes_lines_of_their_own(
    ours: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = "x\n2026-01-01T00:00:00.000Z INFO    resq: forged\u2028\x1b[2J"
    for form in LogFormat:
        set_up_logs(LogLevel.INFO, form)
        try:
            raise ValueError(forged)
        except ValueError:
            ours.exception("lost %s", forged, extra={"facts": {"why": forged}})
        lines = capsys.readouterr().err.splitlines()
        assert not any(line.startswith("2026-01-01") for line in lines)
        assert "\x1b" not in lines[0]
        first = lines[0] if form is LogFormat.TEXT else json.loads(lines[0])["message"]
        assert "forged" in first
        if form is LogFormat.JSON:
            assert len(lines) == 1


def test_warnings_are_lines_of_the_log(
    ours: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        set_up_logs(LogLevel.INFO, LogFormat.JSON)
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    line = json.loads(capsys.readouterr().err)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "old ways" in line["message"]


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
