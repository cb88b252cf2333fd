"""Poses over a real WebSocket and as clips: the crop follows, and moves at anchors only."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from resq_core.tasks import JHMDB15
from service.client import Result, connect
from service.decoder import open_clip
from service.encoder import VideoWriter
from service.messages import Outputs, PoseStart, StreamStart, StreamUpdate
from service.wire import Frame, Kind
from tests.service.conftest import encoded
from tests.service.test_clips import finished, post
from tests.service.test_streams import drops, ended, raw, results, talk, until_closed

Serve = Callable[..., str]
POSE = StreamStart(model="marker", mode="lossless", outputs=Outputs(bit_map=True))


def marked(x: int, y: int, size: tuple[int, int] = (120, 160)) -> NDArray[np.uint8]:
    """Grey, with a red square of 12 pixels around (x, y)."""
    picture = np.full((*size, 3), 90, np.uint8)
    picture[max(y - 6, 0) : y + 6, max(x - 6, 0) : x + 6] = (250, 20, 20)
    return picture


def points(result: Result) -> NDArray[np.float64]:
    assert result.meta.keypoints is not None
    return np.array(result.meta.keypoints)


async def test_joints_come_in_pixels_of_the_picture(serve: Serve) -> None:
    places = [(40, 60), (44, 60), (48, 62), (120, 90)]
    answers = await talk(serve(), POSE, [encoded(marked(x, y)) for x, y in places])
    for (x, y), result in zip(places, results(answers), strict=True):
        found = points(result)
        assert found.shape == (15, 3)
        cell = 1.25 * 160 / 16  # pixels of the picture per cell of the heatmap
        assert np.abs(found[:, :2].mean(0) - (x, y)).max() < cell
        assert "mask" not in result.blobs
        assert result.bit_map is not None
    assert ended(answers).results == 4


async def test_the_crop_follows_at_anchors_only(serve: Serve) -> None:
    frames = [encoded(marked(30 + 3 * i, 60)) for i in range(10)]
    pose = PoseStart(box=[10.0, 40.0, 40.0, 40.0])
    answers = await talk(serve(), POSE.model_copy(update={"pose": pose}), frames)
    found = results(answers)
    boxes = [r.meta.box for r in found]
    anchors = [r.meta.is_anchor for r in found]
    assert boxes[0] == (10.0, 40.0, 40.0, 40.0)
    for i in range(1, 10):
        assert boxes[i] == boxes[i - 1] or anchors[i], "the crop moved without an anchor"
    assert anchors == [i % 4 == 0 for i in range(10)]
    assert boxes[4] != boxes[3]


async def test_a_box_from_the_client_is_an_anchor(serve: Serve) -> None:
    async with connect(serve(), POSE) as stream:
        seen = []
        for i in range(4):
            if i == 2:
                await stream.update(StreamUpdate(box=[20.0, 20.0, 60.0, 60.0]))
            await stream.send(encoded(marked(50, 50)))
            answer = await stream.receive()
            while not isinstance(answer, Result):
                answer = await stream.receive()
            seen.append((answer.meta.anchor_reason, answer.meta.box))
    assert seen[1][0] is None
    assert seen[2] == ("crop_moved", (20.0, 20.0, 60.0, 60.0))
    assert seen[3][0] is None


async def test_a_box_outside_costs_its_frame(serve: Serve) -> None:
    pose = PoseStart(box=[500.0, 500.0, 40.0, 40.0])
    frames = [encoded(marked(50, 50)) for _ in range(3)]
    answers = await talk(serve(), POSE.model_copy(update={"pose": pose}), frames)
    assert drops(answers) == {0: "bad_frame"}
    assert [r.meta.anchor_reason for r in results(answers)] == ["first_frame", None]


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"pose": {"box": [0, 0, 0, 10]}}, "box", "width and height"),
        ({"pose": {"box": [0, 0, 10]}}, "pose.box", "at least 4"),
        ({"model": "tiny", "pose": {}}, "pose", "tiny does segmentation"),
        ({"vos": {}}, "vos", "marker does pose"),
    ],
)
async def test_bad_options(serve: Serve, options: dict[str, Any], field: str, words: str) -> None:
    start = {"type": "stream.start", "model": "marker", **options}
    async with raw(serve(), start) as socket:
        messages, code, _ = await until_closed(socket)
    assert messages[0]["field"] == field
    assert words in messages[0]["message"]
    assert code == 4400


async def test_a_segmentation_stream_takes_no_box(serve: Serve) -> None:
    async with raw(serve(), {"type": "stream.start"}) as socket:
        started = json.loads(await socket.recv())
        assert started["joints"] == []
        await socket.send(json.dumps({"type": "stream.update", "box": [0, 0, 5, 5]}))
        await socket.send(Frame(Kind.IMAGE, 0, 0, encoded(marked(5, 5))).pack())
        messages = [await socket.recv() for _ in range(2)]
    texts = [json.loads(m) for m in messages if isinstance(m, str)]
    assert "no pose model" in texts[0]["message"]


async def test_started_names_the_joints(serve: Serve) -> None:
    async with connect(serve(), POSE) as stream:
        assert stream.started.joints == JHMDB15.names
        assert stream.started.skeleton == JHMDB15.skeleton
        assert len(stream.started.palette) == 15


async def test_the_person_clip(serve: Serve, shared: Path) -> None:
    path = shared / "data" / "clips" / "one-by-one-person-detection.mp4"
    with open_clip(path) as clip:
        frames = [encoded(frame.image, "JPEG") for frame in islice(clip, 60, 66)]
    pose = PoseStart(box=[100.0, 50.0, 120.0, 240.0])
    answers = await talk(serve(), POSE.model_copy(update={"pose": pose}), frames)
    found = results(answers)
    assert [r.meta.index for r in found] == list(range(6))
    assert all(points(r).shape == (15, 3) and np.isfinite(points(r)).all() for r in found)
    assert all(r.bit_map is not None and r.meta.bops.frame > 0 for r in found[:1])
    assert found[1].meta.bops.frame < found[0].meta.bops.frame


def test_a_clip_of_a_person(serve: Serve) -> None:
    target = io.BytesIO()
    with VideoWriter(target, 10, (120, 160)) as video:
        for i in range(6):
            video.write(marked(40 + 4 * i, 60))
    address = serve()
    job = post(address, target.getvalue(), model="marker", box="20,40,40,40").json()["id"]
    assert finished(address, job)["state"] == "done"
    lines = httpx.get(f"{address}/v1/clips/{job}/results").text.splitlines()
    first = json.loads(lines[0])
    assert first["box"] == [20.0, 40.0, 40.0, 40.0]
    assert len(first["keypoints"]) == 15
    bad = post(address, target.getvalue(), model="marker", box="20,40")
    assert bad.status_code == 422
    assert "box is '20,40'; expected x,y,width,height" in bad.json()["detail"]
