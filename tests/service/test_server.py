"""The server around the streams: start, health, metrics, page, and a tidy end."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from resq_core import QuantizedModel
from service.config import Config, ConfigError, load_config
from service.messages import Ended
from service.server import Server, running
from service.wire import Frame, Kind
from tests.service.conftest import SlowEngine, colour, encoded
from tests.service.test_clips import clip_bytes, finished, post
from tests.service.test_streams import LOSSLESS, raw, talk, until_closed

Serve = Callable[..., str]
WEB = Path(__file__).resolve().parents[2] / "service" / "web"


def wait_ready(address: str) -> None:
    deadline = time.perf_counter() + 20
    while httpx.get(f"{address}/readyz").status_code != 200:
        assert time.perf_counter() < deadline
        time.sleep(0.02)


def test_ready_comes_after_warm_up(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.3
    address = serve()
    assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}
    early = httpx.get(f"{address}/readyz")
    assert early.status_code == 503
    assert "warming up" in early.json()["detail"]
    wait_ready(address)
    assert engine.held == 0


def test_a_default_model_that_cannot_be_used_is_never_ready(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    address = serve(precision="W4A4")
    time.sleep(0.5)
    assert httpx.get(f"{address}/readyz").status_code == 503
    assert "the default model cannot be used" in caplog.text


async def test_a_server_that_stops_says_so(quantized: QuantizedModel, tmp_path: Path) -> None:
    engine = SlowEngine(quantized, seconds=0.2)
    config = Config(model="tiny", threads=1, data_dir=tmp_path)
    server = Server(config, engine, log_level="warning")
    manager = running(server)
    address = manager.__enter__()
    async with raw(address, {"type": "stream.start", "mode": "lossless"}) as socket:
        await socket.recv()
        for seq in range(3):
            await socket.send(Frame(Kind.IMAGE, seq, seq, encoded(colour(seq))).pack())
        await socket.recv()
        stopping = asyncio.create_task(asyncio.to_thread(manager.__exit__, None, None, None))
        messages, code, reason = await until_closed(socket)
        await stopping
    last = [m for m in messages if isinstance(m, dict)][-1]
    assert last["type"] == "stream.ended"
    assert last["received"] == last["results"] + last["drops"] == 3
    assert (code, reason) == (1012, "shutdown")
    assert engine.held == 0


def test_a_clip_in_the_works_does_not_hold_up_the_end(
    quantized: QuantizedModel, tmp_path: Path
) -> None:
    engine = SlowEngine(quantized, seconds=0.1)
    config = Config(model="tiny", threads=1, data_dir=tmp_path)
    with running(Server(config, engine, log_level="warning")) as address:
        post(address, clip_bytes(100))
        time.sleep(0.5)
        start = time.perf_counter()
    assert time.perf_counter() - start < 5
    assert engine.held == 0


async def test_metrics_add_up(serve: Serve) -> None:
    address = serve()
    frames = [encoded(colour(i)) for i in range(6)] + [b"x"]
    answers = await talk(address, LOSSLESS, frames)
    job = (await asyncio.to_thread(post, address, clip_bytes(3))).json()["id"]
    await asyncio.to_thread(finished, address, job)
    clip = httpx.get(f"{address}/v1/clips/{job}/report").json()
    text = httpx.get(f"{address}/metrics").text
    samples = {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    ended = answers[-1]
    spent = {k[1:]: v for k, v in samples.items() if k[0] == "resq_bops_total"}
    assert isinstance(ended, Ended)
    assert sum(spent.values()) == ended.bops + clip["bops"]
    assert samples["resq_bops_baseline_total", "tiny"] == ended.bops_w8a8 + clip["bops_w8a8"]
    assert samples["resq_frames_total", "inferred", "tiny"] == 6 + 3
    assert samples["resq_frames_total", "received", "tiny"] == 7
    assert samples["resq_frames_total", "answered", "tiny"] == 6
    assert samples["resq_frames_dropped_total", "bad_frame", "tiny"] == 1
    assert samples["resq_anchors_total", "first_frame", "tiny"] == 2
    assert samples["resq_e2e_latency_seconds_count", "tiny"] == 6
    assert samples["resq_clip_jobs", "done"] == 1
    assert samples["resq_ws_closes_total", "1000"] == 1


def test_the_page_is_served_with_its_own_policy(serve: Serve) -> None:
    address = serve()
    page = httpx.get(address)
    assert "ResQ</title>" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    there = {f"/web/{path.name}" for path in WEB.iterdir() if path.name != "index.html"}
    assert parts(address, page.text) == there, "all of it is used, and nothing else"
    for path in ("/web/../app.py", "/web/%2e%2e/app.py", "/web/nope.js", "/nope"):
        missing = httpx.get(address + path)
        assert missing.status_code == 404
        assert missing.json()["status"] == 404


def parts(address: str, text: str) -> set[str]:
    """What a page or module refers to, and what that refers to; all of it is served."""
    found: set[str] = set()
    waiting = re.findall(r'"(/web/[^"]+)"', text)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            answer = httpx.get(address + path)
            assert answer.status_code == 200, path
            waiting += re.findall(r'"(/web/[^"]+)"', answer.text)
    return found


def test_models_and_version(serve: Serve) -> None:
    address = serve()
    models = httpx.get(f"{address}/v1/models").json()
    assert models["default"] == "tiny"
    assert models["models"][0]["classes"] == ["red", "green", "blue"]
    assert httpx.get(f"{address}/v1/version").json()["protocol"] == "resq.v1"
    assert "/v1/clips" in httpx.get(f"{address}/openapi.json").json()["paths"]


def test_settings_say_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESQ_PORT", "99999")
    monkeypatch.setenv("RESQ_MAX_STREAMS", "many")
    with pytest.raises(ConfigError) as caught:
        load_config()
    assert "RESQ_PORT is '99999'" in str(caught.value)
    assert "RESQ_MAX_STREAMS is 'many'" in str(caught.value)
    monkeypatch.setenv("RESQ_PORT", "8001")
    monkeypatch.delenv("RESQ_MAX_STREAMS")
    assert load_config(port=None).port == 8001
    assert load_config(port=8002).port == 8002


def test_an_upload_that_an_earlier_server_left_is_cleared(serve: Serve, tmp_path: Path) -> None:
    leftover = tmp_path / "data" / "clips" / "0123456789abcdef"
    foreign = tmp_path / "data" / "clips" / "holiday"
    for folder in (leftover, foreign):
        folder.mkdir(parents=True)
        (folder / "clip").write_bytes(b"x")
    serve()
    assert not leftover.exists()
    assert (foreign / "clip").exists(), "what is no job of ours stays"


def test_the_event_loop_is_never_blocked(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.5
    address = serve()
    slow: list[float] = []

    def poll() -> None:
        with httpx.Client() as client:
            for _ in range(40):
                start = time.perf_counter()
                client.get(f"{address}/healthz")
                slow.append(time.perf_counter() - start)

    poller = threading.Thread(target=poll)
    poller.start()
    asyncio.run(_stream_some(address))
    poller.join()
    assert sorted(slow)[len(slow) // 2] < 0.2, "health waits for inference"


async def _stream_some(address: str) -> Any:
    return json.dumps(len(await talk(address, LOSSLESS, [encoded(colour(0))] * 3)))
