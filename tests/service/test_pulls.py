"""Pulled streams from real HTTP and RTSP servers: good, hung, dying, redirecting, lying."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.config import Config
from service.server import Server, running
from service.source_feed import SourceError
from service.source_rtsp import RtspFilter
from tests.service.cameras import (
    TYPES,
    Camera,
    Listener,
    file,
    has_rtsp_server,
    redirect,
    rtsp_server,
    video,
)
from tests.service.conftest import SlowEngine
from tests.service.test_decoder_process import decoders

Serve = Callable[..., str]
HERE = {"allowed_hosts": "127.0.0.1", "source_timeout": 1.0}
FILE: dict[str, Any] = {"mode": "lossless", "sinks": [{"kind": "ndjson"}]}
needs_rtsp = pytest.mark.skipif(
    not has_rtsp_server(),
    reason="needs Debian's gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and python3-gi",
)


def eventually(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
    return found


def pull(address: str, url: str, **options: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/streams", json={"url": url, "id": "door", **options})


def door(address: str) -> dict[str, Any] | None:
    answer = httpx.get(f"{address}/v1/streams/door")
    return answer.json() if answer.status_code == 200 else None


def source(address: str) -> dict[str, Any]:
    found = door(address)
    assert found is not None
    source: dict[str, Any] = found["source"]
    return source


def failing(address: str, words: str) -> Any:
    """Wait until the source is tried again, for a reason with these words."""

    def check() -> bool:
        found = source(address)
        return found["state"] == "retrying" and words in (found["error"] or "")

    return eventually(check)


def records(folder: Path) -> list[dict[str, Any]]:
    """What the file sinks wrote, oldest first."""
    paths = sorted(folder.glob("results/*.ndjson"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def delete(address: str) -> None:
    start = time.monotonic()
    assert httpx.delete(f"{address}/v1/streams/door", timeout=20).status_code == 204
    assert time.monotonic() - start < 5, "far below every timeout of a source that hangs"
    assert door(address) is None
    assert decoders() == []


@pytest.fixture
def camera() -> Iterator[Camera]:
    with Camera() as camera:
        yield camera


@pytest.mark.parametrize("form", ["mpegts", "mp4", "webm", "mpjpeg"])
def test_a_file_is_read_to_its_end(serve: Serve, camera: Camera, tmp_path: Path, form: str) -> None:
    address = serve(**HERE)
    camera.answers["/a"] = file(video(form, 10), TYPES.get(form, "video/mp2t"))
    answer = pull(address, f"http://{camera.address}/a", **FILE)
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/streams/door"
    eventually(lambda: door(address) is None)
    found = records(tmp_path / "data")
    assert [r["seq"] for r in found] == list(range(10))
    assert [r["stream"] for r in found] == ["door"] * 10
    steps = {b["pts_us"] - a["pts_us"] for a, b in pairwise(found)}
    assert all(abs(step - 40_000) <= 1000 for step in steps)
    assert decoders() == []
    assert len(camera.seen) == 1


def test_a_stream_is_described_listed_and_deleted(serve: Serve, camera: Camera) -> None:
    address = serve(**HERE)
    camera.answers["/live"] = camera.live
    answer = pull(address, f"http://{camera.address}/live", period=3, threshold=0.0)
    assert answer.status_code == 201
    assert answer.json()["source"]["url"] == f"http://{camera.address}/live"
    eventually(lambda: (door(address) or {})["results"] > 3)
    listed = httpx.get(f"{address}/v1/streams").json()["streams"]
    assert [(s["id"], s["period"], s["mode"]) for s in listed] == [("door", 3, "live")]
    assert source(address)["state"] == "running"
    again = pull(address, f"http://{camera.address}/live")
    assert (again.status_code, again.json()["code"]) == (409, "duplicate_id")
    delete(address)
    assert httpx.delete(f"{address}/v1/streams/door").status_code == 404


def test_a_patient_stream_is_not_idle(serve: Serve, camera: Camera) -> None:
    address = serve(**HERE, idle_timeout=0.3)
    camera.answers["/hang"] = camera.hang
    pull(address, f"http://{camera.address}/hang")
    failing(address, "no answer in time")
    assert door(address) is not None


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"url": "file:///etc/passwd"}, 422, "scheme"),
        ({"url": "http://other.example/"}, 422, "RESQ_ALLOWED_HOSTS"),
        ({"url": "http://2130706433/"}, 422, "usual form"),
        ({"url": "http://127.0.0.1@evil.example/"}, 422, "evil.example"),
        ({"url": "http://127.0.0.1/", "model": "nope"}, 422, "no model is called"),
        ({"url": "http://127.0.0.1/", "period": 0}, 422, "greater than"),
        ({"url": "http://127.0.0.1/", "input": "h264"}, 422, "rgb"),
        ({}, 422, "url"),
        (
            {"url": "http://127.0.0.1/", "sinks": [{"kind": "mqtt", "url": "mqtt://b.example"}]},
            422,
            "not allowed",
        ),
    ],
)
def test_bad_wishes_are_refused(
    serve: Serve, options: dict[str, Any], status: int, words: str
) -> None:
    address = serve(**HERE)
    answer = httpx.post(f"{address}/v1/streams", json=options)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]
    assert httpx.get(f"{address}/v1/streams").json()["streams"] == []


def test_nothing_is_pulled_unless_the_host_is_allowed(serve: Serve, camera: Camera) -> None:
    answer = pull(serve(), f"http://{camera.address}/live")
    assert (answer.status_code, answer.json()["code"]) == (422, "forbidden_url")
    assert camera.seen == []


def test_places_are_those_of_all_streams(serve: Serve, camera: Camera) -> None:
    address = serve(**HERE, max_streams=1)
    camera.answers["/live"] = camera.live
    assert pull(address, f"http://{camera.address}/live").status_code == 201
    full = pull(address, f"http://{camera.address}/live", id="other")
    assert (full.status_code, full.json()["code"]) == (503, "full")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_checked(serve: Serve, camera: Camera, status: int) -> None:
    address = serve(**HERE)
    with Listener(lambda connection: None, "127.0.0.2") as canary:
        camera.answers["/away"] = redirect(f"http://{canary.address}/secret", status)
        pull(address, f"http://{camera.address}/away")
        failing(address, "not allowed")
        assert canary.connections == 0


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://[::1]/", "gopher://127.0.0.1/"])
def test_redirects_lead_nowhere_else(serve: Serve, camera: Camera, location: str) -> None:
    address = serve(**HERE)
    camera.answers["/away"] = redirect(location)
    pull(address, f"http://{camera.address}/away")
    eventually(lambda: source(address)["state"] == "retrying")
    error = source(address)["error"]
    assert "allowed" in error or "scheme" in error


def test_redirects_end(serve: Serve, camera: Camera) -> None:
    address = serve(**HERE)
    camera.answers["/round"] = redirect("/round")
    pull(address, f"http://{camera.address}/round")
    failing(address, "over 5 redirects")


def test_credentials_stay_with_their_origin(
    serve: Serve, camera: Camera, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Camera() as other:
        other.answers["/b"] = file(video("mpegts"))
        camera.answers["/a"] = redirect("/c?token=hush")
        camera.answers["/c"] = redirect(f"http://{other.address}/b")
        address = serve(**HERE)
        url = f"http://cam:hush@{camera.address}/a?token=hush"
        shown = pull(address, url, **FILE).json()["source"]["url"]
        assert shown == f"http://{camera.address}/a"
        eventually(lambda: door(address) is None)
        assert [r["seq"] for r in records(tmp_path / "data")] == list(range(10))
        assert ["authorization" in seen for seen in camera.seen] == [True, True]
        assert ["authorization" in seen for seen in other.seen] == [False]
    assert "hush" not in caplog.text.replace(url, "")


@pytest.mark.parametrize("path", ["hang", "half"])
def test_a_hung_source_is_tried_again_and_stops_for_certain(
    serve: Serve, camera: Camera, path: str
) -> None:
    address = serve(**HERE)
    camera.answers["/hang"], camera.answers["/half"] = camera.hang, camera.half
    pull(address, f"http://{camera.address}/{path}")
    failing(address, "no answer in time" if path == "hang" else "")
    eventually(lambda: len(camera.seen) > 1)
    delete(address)


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_source_that_never_answers_stops_for_certain(serve: Serve, scheme: str) -> None:
    address = serve(allowed_hosts="127.0.0.1", source_timeout=60.0)
    gone = threading.Event()

    def script(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass
        gone.set()

    with Listener(script) as silent:
        pull(address, f"{scheme}://{silent.address}/x")
        eventually(lambda: silent.connections == 1)
        delete(address)
        assert gone.wait(5), "the server's socket is closed"


def test_a_source_that_dies_comes_back_into_the_same_stream(serve: Serve) -> None:
    address = serve(**HERE)
    with Camera() as camera:
        camera.answers["/live"] = camera.live
        port = camera.port
        pull(address, f"http://{camera.address}/live", period=1_000_000)
        eventually(lambda: (door(address) or {})["results"] > 3)
        reasons = []
        with httpx.stream("GET", f"{address}/v1/streams/door/results", timeout=30) as answer:
            lines = answer.iter_lines()
            json.loads(next(lines))
            camera.stop()
            failing(address, "")
            before = door(address)
            with Camera(port) as again:
                again.answers["/live"] = again.live
                while "requested" not in reasons:
                    reasons.append(json.loads(next(lines))["anchor_reason"])
                assert set(reasons[:-1]) <= {None, "first_frame"}
                after = door(address)
                delete(address)
            assert list(lines) is not None, "following ends with the stream"
    assert before is not None
    assert after is not None
    assert after["received"] > before["received"]
    assert after["source"]["connections"] == 2


def test_no_video_is_said(serve: Serve, camera: Camera) -> None:
    address = serve(**HERE)
    camera.answers["/text"] = file(b"nothing of the kind\n" * 500)
    camera.answers["/list"] = file(b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n")
    for path in ("text", "list"):
        pull(address, f"http://{camera.address}/{path}")
        failing(address, "no video")
        delete(address)


def test_a_pulled_stream_outlives_its_server(
    engine: SlowEngine, camera: Camera, tmp_path: Path
) -> None:
    camera.answers["/live"] = camera.live
    config = Config(model="tiny", threads=1, decoders=0, data_dir=tmp_path, **HERE)
    with running(Server(config, engine, "warning")) as address:
        answer = pull(address, f"http://cam:hush@{camera.address}/live?key=hush", period=7)
        assert answer.status_code == 201
        eventually(lambda: (door(address) or {})["results"] > 0)
    assert decoders() == []
    assert (tmp_path / "jobs.db").stat().st_mode & 0o077 == 0
    with running(Server(config, engine, "warning")) as address:
        found = eventually(lambda: "period" in (known := door(address) or {}) and known)
        assert found["period"] == 7
        assert "hush" not in json.dumps(found)
        eventually(lambda: (door(address) or {})["results"] > 0)
        assert "authorization" in camera.seen[-1]
        delete(address)
    with running(Server(config, engine, "warning")) as address:
        eventually(lambda: httpx.get(f"{address}/readyz").status_code == 200)
        assert httpx.get(f"{address}/v1/streams").json()["streams"] == []


@needs_rtsp
def test_a_camera_over_rtsp(serve: Serve, tmp_path: Path) -> None:
    address = serve(allowed_hosts="127.0.0.1")
    with rtsp_server(tmp_path, access="password") as port:
        answer = pull(address, f"rtsp://cam:hush@127.0.0.1:{port}/live", sinks=FILE["sinks"])
        assert answer.json()["source"]["url"] == f"rtsp://127.0.0.1:{port}/live"
        eventually(lambda: len(records(tmp_path / "data")) > 3)
        assert source(address)["state"] == "running"
        (child,) = decoders()
        limit = child.rlimit(psutil.RLIMIT_NOFILE) if hasattr(child, "rlimit") else (1, 1)
        assert limit == (1, 1)
        assert "hush" not in str(child.cmdline()) + str(child.environ())
        delete(address)
    found = records(tmp_path / "data")
    assert all(b["pts_us"] > a["pts_us"] for a, b in pairwise(found))


@needs_rtsp
def test_a_wrong_password_is_said_and_not_shown(serve: Serve, tmp_path: Path) -> None:
    address = serve(allowed_hosts="127.0.0.1")
    with rtsp_server(tmp_path, access="password") as port:
        pull(address, f"rtsp://cam:wrong@127.0.0.1:{port}/live")
        failing(address, "authorization failed")
        assert "wrong" not in json.dumps(door(address))


@needs_rtsp
def test_a_camera_that_is_restarted(serve: Serve, tmp_path: Path) -> None:
    address = serve(allowed_hosts="127.0.0.1", source_timeout=5.0)
    with rtsp_server(tmp_path) as port:
        pull(address, f"rtsp://127.0.0.1:{port}/live")
        eventually(lambda: (door(address) or {})["results"] > 2)
    failing(address, "")
    with rtsp_server(tmp_path, port=port):
        eventually(lambda: source(address)["connections"] == 2)
        before = (door(address) or {})["results"]
        eventually(lambda: (door(address) or {})["results"] > before)
        delete(address)


def answering(text: str) -> Callable[[socket.socket], None]:
    """An RTSP server that answers everything with this."""

    def script(connection: socket.socket) -> None:
        number = 0
        while connection.recv(4096):
            number += 1
            connection.sendall(text.replace("SEQ", str(number)).encode())

    return script


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "305 Use Proxy"])
def test_rtsp_redirects_are_not_followed(serve: Serve, status: str) -> None:
    address = serve(**HERE)
    with Listener(lambda connection: None) as canary:
        text = f"RTSP/1.0 {status}\r\nCSeq: SEQ\r\nLocation: rtsp://{canary.address}/x\r\n\r\n"
        with Listener(answering(text)) as liar:
            pull(address, f"rtsp://{liar.address}/live")
            failing(address, "redirects")
            delete(address)
        assert canary.connections == 0


OK = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 5\r\n\r\nhello"
MEDIA = b"$\x00\x00\x03abc"


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_the_filter_passes_whole_messages(step: int) -> None:
    data = OK + MEDIA + MEDIA + b"OPTIONS rtsp://x RTSP/1.0\r\nCSeq: 2\r\n\r\n" + OK
    guard, passed = RtspFilter(), b""
    for i in range(0, len(data), step):
        passed += guard.feed(data[i : i + step])
    assert passed == data
    assert guard.feed(MEDIA[:5]) == b""
    assert guard.rest() == MEDIA[:5]


@pytest.mark.parametrize(
    "data",
    [
        b"RTSP/1.0 302 Found\r\n\r\n",
        MEDIA + b"RTSP/1.0 301 x\r\n\r\n",
        OK + b"RTSP/1.0 399\r\n\r\n",
        b"RTSP/1.0 0302 Found\r\n\r\n",
        b"RTSP/1.0\t302 Found\r\n\r\n",
        b"RTSP/1.0 200 OK\n\nRTSP/1.0 302 Found\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 1\n\nRTSP/1.0 302 x\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n$\x00\x00\x01x: y\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n folded\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length : 1\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"REDIRECT rtsp://x RTSP/1.0\r\nLocation: rtsp://y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\r\n\r\n",
        b"x" * 20_000,
    ],
)
def test_the_filter_refuses_what_could_hide_a_redirect(data: bytes) -> None:
    with pytest.raises(SourceError):
        RtspFilter().feed(data)
