"""Clips over REST: real video files through a real server."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import connect
from service.decoder import open_clip
from service.encoder import VideoWriter
from service.messages import StreamStart
from tests.service.conftest import SlowEngine, colour, encoded
from tests.service.test_clip_reading import audio
from tests.service.test_streams import metric

Serve = Callable[..., str]


def clip_bytes(count: int = 9, size: tuple[int, int] = (48, 64)) -> bytes:
    target = io.BytesIO()
    with VideoWriter(target, 10, size) as video:
        for i in range(count):
            video.write(colour(i // 3, size))
    return target.getvalue()


def finished(address: str, job: str, seconds: float = 30.0) -> dict[str, Any]:
    deadline = time.perf_counter() + seconds
    while True:
        state: dict[str, Any] = httpx.get(f"{address}/v1/clips/{job}").json()
        if state["state"] in ("done", "failed", "cancelled"):
            return state
        assert time.perf_counter() < deadline, state
        time.sleep(0.02)


def post(address: str, data: bytes, **options: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/clips", params=options, content=data)


def test_a_clip_from_upload_to_report(serve: Serve, tmp_path: Path) -> None:
    address = serve()
    answer = post(address, clip_bytes(), period=4, threshold=0.2)
    assert answer.status_code == 202
    job = answer.json()["id"]
    assert answer.headers["location"] == f"/v1/clips/{job}"
    state = finished(address, job)
    assert (state["state"], state["results"], state["progress"]) == ("done", 9, 1.0)
    text = httpx.get(f"{address}/v1/clips/{job}/results")
    assert text.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in text.text.splitlines()]
    assert [line["index"] for line in lines] == list(range(9))
    assert [i for i, line in enumerate(lines) if line["is_anchor"]] == [0, 4, 8]
    report = httpx.get(f"{address}/v1/clips/{job}/report").json()
    assert (report["frames"], report["results"], report["drops"]) == (9, 9, 0)
    assert (report["period"], report["threshold"]) == (4, 0.2)
    assert report["bops"] == sum(line["bops"]["frame"] for line in lines)
    (tmp_path / "v.mp4").write_bytes(httpx.get(f"{address}/v1/clips/{job}/video").content)
    with open_clip(tmp_path / "v.mp4") as video:
        assert len(list(video)) == 9
    assert [c["id"] for c in httpx.get(f"{address}/v1/clips").json()["clips"]] == [job]
    for name, field in (("bops", "bops"), ("bops_baseline", "bops_w8a8"), ("anchors", "anchors")):
        assert metric(address, f"resq_{name}_total") == report[field]
    assert metric(address, "resq_policy_bops_total") == report["policy_bops"]
    assert metric(address, "resq_frames_total") == metric(address, "resq_mean_bits_count") == 9


def test_a_form_does_as_well(serve: Serve) -> None:
    address = serve()
    files = {"file": ("street.mp4", clip_bytes(), "video/mp4")}
    job = httpx.post(f"{address}/v1/clips", files=files).json()["id"]
    assert finished(address, job)["results"] == 9


def test_results_can_be_followed(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.05
    address = serve()
    job = post(address, clip_bytes(12)).json()["id"]
    seen, states = [], set()
    url = f"{address}/v1/clips/{job}/results"
    with httpx.stream("GET", url, params={"follow": "true"}) as response:
        for line in response.iter_lines():
            seen.append(json.loads(line)["index"])
            states.add(httpx.get(f"{address}/v1/clips/{job}").json()["state"])
    assert seen == list(range(12))
    assert "running" in states


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "nope"}, "there are: tiny, marker"),
        ({"precision": "W9A9"}, "from 0 to 8"),
        ({"period": 0}, "period: Input should be greater than or equal to 1"),
        ({"threshold": -1}, "threshold: Input should be greater than or equal to 0"),
        ({"threshold": "nan"}, "threshold: Input should be a finite number"),
        ({"reference": "first"}, "reference: Input should be 'keyframe'"),
    ],
)
def test_bad_options_are_refused(serve: Serve, options: dict[str, Any], words: str) -> None:
    address = serve()
    answer = post(address, clip_bytes(2), **options)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]
    assert httpx.get(f"{address}/v1/clips").json() == {"clips": []}


def test_files_that_are_no_clips_fail_with_a_reason(serve: Serve, tmp_path: Path) -> None:
    address = serve()
    whole = clip_bytes(30)
    cases = {
        "damaged, truncated": whole[: len(whole) // 2],  # the index is at the end, and lost
        "not MP4": b"nothing of the kind" * 100,
        "holds no video": audio(tmp_path / "a.mp4").read_bytes(),
    }
    for words, data in cases.items():
        state = finished(address, post(address, data).json()["id"])
        assert state["state"] == "failed"
        assert words in state["error"]
        url = f"{address}/v1/clips/{state['id']}"
        report = httpx.get(f"{url}/report")
        assert report.status_code == 409
        assert words in report.json()["error"]
        assert httpx.get(f"{url}/results").text == ""
    good = finished(address, post(address, clip_bytes()).json()["id"])
    assert good["state"] == "done"


def test_bodies_outside_the_limits(serve: Serve, tmp_path: Path) -> None:
    address = serve(max_clip_bytes=20_000, max_clip_frames=5)
    assert post(address, b"").status_code == 422
    assert post(address, bytes(20_001)).status_code == 413
    chunks = (bytes(5000) for _ in range(20))  # no length is told
    assert httpx.post(f"{address}/v1/clips", content=chunks).status_code == 413
    files = {"file": ("big.mp4", bytes(1_200_000))}
    assert httpx.post(f"{address}/v1/clips", files=files).status_code == 413
    assert httpx.post(f"{address}/v1/clips", files={"a": b"x", "b": b"y"}).status_code == 422
    assert httpx.get(f"{address}/v1/clips").json() == {"clips": []}
    state = finished(address, post(address, clip_bytes(6)).json()["id"])
    assert "at most 5" in state["error"]
    assert list((tmp_path / "data" / "clips").glob("*/clip")) == []


def test_deleting_stops_and_removes(serve: Serve, engine: SlowEngine, tmp_path: Path) -> None:
    engine.seconds = 0.1
    address = serve()
    jobs = [post(address, clip_bytes(40)).json()["id"] for _ in range(2)]
    deadline = time.perf_counter() + 10
    while httpx.get(f"{address}/v1/clips/{jobs[0]}").json()["results"] == 0:
        assert time.perf_counter() < deadline
        time.sleep(0.02)
    for job in reversed(jobs):
        assert httpx.delete(f"{address}/v1/clips/{job}").status_code == 204
        assert httpx.get(f"{address}/v1/clips/{job}").status_code == 404
    assert list((tmp_path / "data" / "clips").iterdir()) == []
    assert engine.held == 0
    engine.seconds = 0.0
    assert finished(address, post(address, clip_bytes()).json()["id"])["state"] == "done"


def test_the_queue_is_bounded_and_old_results_go(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.1
    address = serve(max_clips_waiting=1, max_clips_kept=2)
    first = post(address, clip_bytes(5)).json()["id"]
    deadline = time.perf_counter() + 10
    while httpx.get(f"{address}/v1/clips/{first}").json()["state"] == "queued":
        assert time.perf_counter() < deadline
        time.sleep(0.01)
    second = post(address, clip_bytes(1)).json()["id"]
    full = post(address, clip_bytes(1))
    assert full.status_code == 503
    assert full.headers["retry-after"] == "10"
    engine.seconds = 0.0
    finished(address, second)
    third = post(address, clip_bytes(1)).json()["id"]
    finished(address, third)
    deadline = time.perf_counter() + 10
    while len(clips := httpx.get(f"{address}/v1/clips").json()["clips"]) != 2:
        assert time.perf_counter() < deadline
    assert [c["id"] for c in clips] == [second, third]
    assert httpx.get(f"{address}/v1/clips/{first}/report").status_code == 404


async def test_live_streams_go_before_clips(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.05
    address = serve()
    job = (await asyncio.to_thread(post, address, clip_bytes(60))).json()["id"]
    async with connect(address, StreamStart(mode="lossless")) as stream:

        async def feed() -> None:
            for i in range(20):
                await stream.send(encoded(colour(i)))
            await stream.end()

        sending = asyncio.create_task(feed())
        before = (await asyncio.to_thread(httpx.get, f"{address}/v1/clips/{job}")).json()
        async for _ in stream:
            pass
        await sending
        after = (await asyncio.to_thread(httpx.get, f"{address}/v1/clips/{job}")).json()
    assert after["results"] - before["results"] <= 6, "a clip took turns from a live stream"
    assert after["state"] == "running"


def test_unknown_clips(serve: Serve) -> None:
    address = serve()
    for path in ("nope", "nope/results", "nope/video", "nope/report", "..%2F..%2Fetc%2Fpasswd"):
        answer = httpx.get(f"{address}/v1/clips/{path}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
