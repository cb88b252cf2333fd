"""Jobs that outlive their server, on real files, databases and processes."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest

from resq_core import QuantizedModel
from service import job_store
from service.clip_work import Checkpoint, ClipWork
from service.config import Config
from service.decoder import open_clip
from service.encoder import VideoWriter
from service.engine import Engine, StreamSpec
from service.job_store import JobStore
from service.jobs import Job
from service.launch import launch
from service.messages import PoseStart
from service.server import Server, running
from tests.service.conftest import SlowEngine, colour
from tests.service.test_clips import clip_bytes, finished, post

Serve = Callable[..., str]
# references of which no keyframe is made of what differs from the one before: equal to the bit
SPEC = StreamSpec("tiny", period=4, threshold=0.2, reference="keyframe")


def lines_of(data: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def comparable(lines: list[dict[str, Any]], restarts: list[int]) -> list[dict[str, Any]]:
    """Results without what a restart changes: times, and the reason of its anchor."""
    return [
        {k: v for k, v in line.items() if k != "infer_ms"}
        | ({"anchor_reason": "restart"} if i in restarts and line["is_anchor"] else {})
        for i, line in enumerate(lines)
    ]


def check_totals(report: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    assert report["results"] == report["frames"] == len(lines)
    assert report["anchors"] == sum(line["is_anchor"] for line in lines)
    for total, part in (("bops", "frame"), ("policy_bops", "policy"), ("bops_w8a8", "w8a8")):
        assert report[total] == sum(line["bops"][part] for line in lines)
    mean = sum(line["mean_bits"] for line in lines) / len(lines)
    assert report["mean_bits"] == pytest.approx(mean)


def wait_for(address: str, job: str, results: int) -> None:
    deadline = time.monotonic() + 120
    while (state := httpx.get(f"{address}/v1/clips/{job}").json())["results"] < results:
        assert state["state"] in ("queued", "running"), state
        assert time.monotonic() < deadline
        time.sleep(0.01)


def work(
    engine: Engine,
    clip: Path,
    folder: Path,
    frames: int,
    checkpoint: Checkpoint | None = None,
    spec: StreamSpec = SPEC,
) -> ClipWork:
    """Work that has read so many frames, to its end if there are fewer."""
    started = ClipWork(engine, spec, open_clip(clip), folder, checkpoint)
    for _ in range(frames):
        if not started.advance():
            break
    return started


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10, (48, 64)) as video:
        for i in range(14):
            video.write(np.roll(colour(i // 3), 2 * i, 1))
    return path


@pytest.fixture
def whole(engine: SlowEngine, clip: Path, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """The report and the folder of a run without interruption."""
    done = work(engine, clip, tmp_path / "whole", 99)
    report = done.finish()
    done.close()
    return report, tmp_path / "whole"


@pytest.mark.parametrize("stops", [[6], [9], [5, 10], [13, 14]])
def test_work_goes_on_where_an_anchor_period_ended(
    engine: SlowEngine,
    clip: Path,
    whole: tuple[dict[str, Any], Path],
    tmp_path: Path,
    stops: list[int],
) -> None:
    report, reference = whole
    folder, checkpoint = tmp_path / "cut", None
    for stop in stops:
        cut = work(engine, clip, folder, stop, checkpoint)
        checkpoint = cut.checkpoint
        assert checkpoint is not None
        assert checkpoint.frames == (stop - 1) // 4 * 4
        cut.close()
        for name in ("results.ndjson", "annotated.h264"):
            with (folder / name).open("ab") as file:
                file.write(b'{"index": ')  # a torn tail
    rest = work(engine, clip, folder, 99, checkpoint)
    again = rest.finish()
    rest.close()
    lines = lines_of((folder / "results.ndjson").read_text())
    restarts = sorted({(stop - 1) // 4 * 4 for stop in stops})
    assert [i for i, x in enumerate(lines) if x["anchor_reason"] == "restart"] == restarts
    expected = lines_of((reference / "results.ndjson").read_text())
    assert comparable(lines, restarts) == comparable(expected, restarts)
    check_totals(again, lines)
    times = ("seconds", "fps", "mean_bits")
    assert {k: v for k, v in again.items() if k not in times} == {
        k: v for k, v in report.items() if k not in times
    }
    with (
        open_clip(folder / "annotated.mp4") as ours,
        open_clip(reference / "annotated.mp4") as theirs,
    ):
        pairs = list(zip(ours, theirs, strict=True))
    assert len(pairs) == 14
    for a, b in pairs:
        assert a.pts_us == b.pts_us
        assert np.abs(a.image.astype(int) - b.image).mean() < 8


def test_a_killed_server_goes_on_with_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESQ_DATA_DIR", str(tmp_path / "data"))
    clip = clip_bytes(24, (96, 128))
    with launch() as server:
        job = post(server.address, clip, period=4, reference="keyframe").json()["id"]
        wait_for(server.address, job, 6)
        os.kill(server.pid, signal.SIGKILL)
    with launch() as server:
        url = f"{server.address}/v1/clips/{job}"
        state = finished(server.address, job, 120)
        assert (state["state"], state["results"]) == ("done", 24)
        cut, report = lines_of(httpx.get(f"{url}/results").text), httpx.get(f"{url}/report").json()
        (tmp_path / "v.mp4").write_bytes(httpx.get(f"{url}/video").content)
        other = post(server.address, clip, period=4, reference="keyframe").json()["id"]
        finished(server.address, other, 120)
        url = f"{server.address}/v1/clips/{other}"
        reference, summary = httpx.get(f"{url}/results"), httpx.get(f"{url}/report").json()
    assert [line["index"] for line in cut] == list(range(24))
    restarts = [i for i, line in enumerate(cut) if line["anchor_reason"] == "restart"]
    assert len(restarts) == 1
    assert restarts[0] >= 4
    assert restarts[0] % 4 == 0
    assert comparable(cut, restarts) == comparable(lines_of(reference.text), restarts)
    check_totals(report, cut)
    times = ("seconds", "fps", "mean_bits")
    assert {k: v for k, v in report.items() if k not in times} == {
        k: v for k, v in summary.items() if k not in times
    }
    with open_clip(tmp_path / "v.mp4") as video:
        assert len(list(video)) == 24


@contextmanager
def server_on(folder: Path, engine: SlowEngine, **settings: Any) -> Iterator[str]:
    given = {"model": "tiny", "threads": 1, "data_dir": folder} | settings
    with running(Server(Config(**given), engine, log_level="warning")) as address:
        yield address


def test_a_server_that_stops_parks_its_jobs(quantized: QuantizedModel, tmp_path: Path) -> None:
    engine = SlowEngine(quantized)
    with server_on(tmp_path, engine) as address:
        done = finished(address, post(address, clip_bytes()).json()["id"])
        url = f"/v1/clips/{done['id']}"
        texts = [httpx.get(address + url + part).text for part in ("", "/results", "/report")]
        engine.seconds = 0.1
        jobs = [post(address, clip_bytes(12), period=3).json()["id"] for _ in range(2)]
        wait_for(address, jobs[0], 5)
    engine.seconds = 0.0
    with server_on(tmp_path, engine) as address:
        for part, text in zip(("", "/results", "/report"), texts, strict=True):
            assert httpx.get(address + url + part).text == text
        for job in jobs:
            assert finished(address, job)["results"] == 12
            lines = lines_of(httpx.get(f"{address}/v1/clips/{job}/results").text)
            assert [line["index"] for line in lines] == list(range(12))
        names = [c["id"] for c in httpx.get(f"{address}/v1/clips").json()["clips"]]
        assert names == [done["id"], *jobs]
        (tmp_path / "clips" / done["id"] / "results.ndjson").write_text("{}\n")
        damaged = httpx.get(f"{address}{url}/results")
        assert (damaged.status_code, damaged.json()["code"]) == (500, "damaged")


def test_a_job_that_kills_servers_is_given_up(quantized: QuantizedModel, tmp_path: Path) -> None:
    engine = SlowEngine(quantized, seconds=0.1)
    with server_on(tmp_path, engine) as address:
        names = [post(address, clip_bytes(12)).json()["id"] for _ in range(2)]
        wait_for(address, names[0], 1)
    store = JobStore(tmp_path)
    first, second = store.load()
    # as servers leave them that died: the third time at its start, and for once elsewhere
    store.save(replace(first, state="running", checkpoint=None, interruptions=2))
    store.save(replace(second, state="running", interruptions=2, interrupted_at=8))
    store.close()
    engine.seconds = 0.0
    with server_on(tmp_path, engine) as address:
        state = finished(address, names[0])
        assert state["state"] == "failed"
        assert "died 3 times in a row on the frames from 0 on" in state["error"]
        assert finished(address, names[1])["state"] == "done"
        assert not (tmp_path / "clips" / names[0] / "clip").exists()


def test_an_upload_that_is_cut_off_leaves_nothing(
    serve: Serve, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = serve()
    host, port = address.removeprefix("http://").split(":")
    folder = tmp_path / "data" / "clips"
    with socket.create_connection((host, int(port))) as client:
        head = "POST /v1/clips HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
        client.sendall(head.encode() + bytes(50_000))
        deadline = time.monotonic() + 30
        while not list(folder.glob("*/clip.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not list(folder.glob("*/clip"))
    while list(folder.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert httpx.get(f"{address}/v1/clips").json() == {"clips": []}
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("limit", [{"clips_max_age": 1.0}, {"clips_max_bytes": 1024}])
def test_old_results_go(serve: Serve, tmp_path: Path, limit: dict[str, Any]) -> None:
    address = serve(**limit)
    jobs = [post(address, clip_bytes()).json()["id"] for _ in range(2)]
    kept = jobs[1:] if "clips_max_bytes" in limit else []
    deadline = time.monotonic() + 30
    while [c["id"] for c in httpx.get(f"{address}/v1/clips").json()["clips"]] != kept:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if kept:
        assert finished(address, kept[0])["state"] == "done"
    assert [f.name for f in (tmp_path / "data" / "clips").iterdir()] == kept


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond a size: as on a full disk, writing fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_the_upload_and_the_job(
    serve: Serve, engine: SlowEngine, tmp_path: Path
) -> None:
    address = serve()
    with file_size_limit(64 * 1024):
        refused = post(address, bytes(200_000))
    assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
    assert httpx.get(f"{address}/v1/clips").json() == {"clips": []}
    engine.seconds = 0.1
    job = post(address, clip_bytes(40)).json()["id"]
    wait_for(address, job, 2)
    with file_size_limit(1024):
        state = finished(address, job)
        assert state["state"] == "failed"
        assert "the disk of the server is full" in state["error"]
    engine.seconds = 0.0
    assert finished(address, post(address, clip_bytes()).json()["id"])["state"] == "done"
    deadline = time.monotonic() + 30
    while True:  # what could not be remembered then is remembered later
        with sqlite3.connect(tmp_path / "data" / "jobs.db") as store:
            row = store.execute("SELECT state FROM resq_jobs WHERE id = ?", (job,)).fetchone()
        store.close()
        if row == ("failed",):
            break
        assert time.monotonic() < deadline, row
        time.sleep(0.1)


def test_a_locked_store_costs_the_upload(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_store, "_BUSY_SECONDS", 0.2)
    address = serve()
    other = sqlite3.connect(tmp_path / "data" / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = post(address, clip_bytes(2))
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert "locked" in refused.json()["detail"]
    assert list((tmp_path / "data" / "clips").iterdir()) == []
    other.execute("ROLLBACK")
    other.close()
    assert finished(address, post(address, clip_bytes(2)).json()["id"])["state"] == "done"


POSE = StreamSpec(
    "marker", period=4, reference="keyframe", pose=PoseStart(box=[2, 2, 40, 40], follow=True)
)


@pytest.mark.parametrize("stops", [[6], [9, 14]])
def test_a_pose_goes_on_where_its_crop_was(
    engine: SlowEngine, clip: Path, tmp_path: Path, stops: list[int]
) -> None:
    whole = work(engine, clip, tmp_path / "whole", 99, spec=POSE)
    report = whole.finish()
    whole.close()
    expected = lines_of((tmp_path / "whole" / "results.ndjson").read_text())
    boxes = [tuple(line["box"]) for line in expected]
    assert len(set(boxes)) > 2, "it follows"
    job = Job("0123456789abcdef", POSE, tmp_path / "cut")
    for stop in stops:
        cut = work(engine, clip, job.folder, stop, job.checkpoint, POSE)
        assert cut.checkpoint is not None
        assert cut.checkpoint.frames == (stop - 1) // 4 * 4
        assert cut.checkpoint.at == pytest.approx(boxes[cut.checkpoint.frames], abs=0.01)
        cut.close()
        job.checkpoint = cut.checkpoint
        job = Job.of(job.record(), job.folder)
        job.cut_back()
    rest = work(engine, clip, job.folder, 99, job.checkpoint, POSE)
    again = rest.finish()
    rest.close()
    lines = lines_of((job.folder / "results.ndjson").read_text())
    restarts = [(stop - 1) // 4 * 4 for stop in stops]
    assert comparable(lines, restarts) == comparable(expected, restarts)
    assert again["results"] == report["results"] == 14
    check_totals(again, lines)


def test_a_pose_whose_clip_changes_its_size_goes_on_from_before(
    engine: SlowEngine, tmp_path: Path
) -> None:
    """Its box moved with the size, and nobody would know where to."""
    path = tmp_path / "clip.ts"
    path.write_bytes(transport(0, 6, (48, 64)) + transport(6, 3, (96, 128)))
    clip = open_clip(path)
    started = ClipWork(engine, POSE, clip, tmp_path / "cut")
    while started.advance():
        pass
    assert started.results == 9
    assert started.checkpoint is not None
    assert started.checkpoint.frames == 4, "of frame 6, an anchor of another size, there is none"
    started.close()


def transport(start: int, count: int, size: tuple[int, int]) -> bytes:
    """An MPEG transport stream, which goes on where another ends."""
    written = io.BytesIO()
    with av.open(written, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=10, height=size[0], width=size[1])
        stream.pix_fmt = "yuv420p"
        for i in range(start, start + count):
            frame = av.VideoFrame.from_ndarray(colour(i, size), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return written.getvalue()
