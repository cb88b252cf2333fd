"""The Python client as an engineer uses it: a real server, real sources, sync and async."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.client import (
    AsyncClient,
    Client,
    ClipError,
    FrameResult,
    InputError,
    KeyRefusedError,
    OptionError,
    RemoteError,
    UnreachableError,
)
from service.client.cameras import open_device, until_lost
from service.encoder import VideoWriter
from service.engine import StreamSpec
from service.keys import Scope, add_key
from tests.service.conftest import SIZE, SlowEngine, colour
from tests.service.test_clips import clip_bytes
from tests.service.test_resume import Network
from tests.service.test_streams import eventually

Serve = Callable[..., str]
Picture = NDArray[np.uint8]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "street.mp4"
    path.write_bytes(clip_bytes(9))
    return path


def check(results: list[FrameResult], count: int) -> None:
    """Every frame came back, in order, with a mask of what it shows."""
    assert [r.index for r in results] == list(range(count))
    for i, r in enumerate(results):
        assert r.mask is not None
        assert r.frame.shape == (*SIZE, 3)
        assert r.mask.shape == SIZE
        assert r.mask[24, 5] == (i // 3) % 3
        assert r.latency_ms > 0


def gone(address: str) -> bool:
    return bool(httpx.get(f"{address}/v1/streams").json()["streams"] == [])


def wait_for(true: Callable[[], bool]) -> None:
    asyncio.run(eventually(true))


def test_a_file_in_a_loop(serve: Serve, clip: Path) -> None:
    with Client(serve()) as client:
        stream = client.stream(clip, period=4)
        results = list(stream)
        check(results, 9)
        assert [r.is_anchor for r in results] == [i % 4 == 0 for i in range(9)]
        assert max(r.saving for r in results) > 0.3
        assert stream.started.classes == ("red", "green", "blue")
        assert stream.source.count == 9
        assert stream.drops == {}
        assert stream.ended is not None
        assert stream.ended.results == 9
        assert [m.name for m in client.models() if m.default] == ["tiny"]
        assert client.version()


async def test_the_same_with_asyncio(serve: Serve, clip: Path) -> None:
    async with AsyncClient(serve()) as client:
        check([r async for r in client.stream(str(clip))], 9)
        assert [m.task for m in await client.models()] == ["segmentation", "pose"]


def test_a_folder_and_arrays_are_exact_without_loss(
    serve: Serve, engine: SlowEngine, tmp_path: Path
) -> None:
    pictures = [colour(i // 3) for i in range(9)]
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i:03d}.png")
    alone = engine.open(StreamSpec("tiny"))
    wanted = [alone.step(picture, True, False, None) for picture in pictures]
    with Client(serve()) as client:
        runs = {
            "folder": client.stream(tmp_path, encoding="png", bit_map=True),
            "list": client.stream(pictures, encoding="rgb", bit_map=True),
            "array": client.stream(np.stack(pictures), encoding="rgb", bit_map=True),
            "generator": client.stream(iter(pictures), encoding="rgb", bit_map=True),
        }
        for name, stream in runs.items():
            results = list(stream)
            check(results, 9)
            for result, out, picture in zip(results, wanted, pictures, strict=True):
                assert np.array_equal(result.frame, picture), name
                assert result.mask is not None
                assert out.ids is not None
                assert np.array_equal(result.mask, out.ids), name
                assert result.bit_map is not None
                assert out.bit_map is not None
                assert np.allclose(result.bit_map, out.bit_map, atol=1 / 60)
                assert result.meta.bops == out.bops


def test_a_pose(serve: Serve) -> None:
    with Client(serve()) as client:
        (result,) = client.stream([colour(0)], model="marker", box=(4, 4, 30, 30))
    assert result.mask is None
    assert result.keypoints is not None
    assert result.keypoints.shape == (15, 3)
    assert result.box == (4, 4, 30, 30)
    person = result.instances()
    assert person.xyxy.tolist() == [[4, 4, 34, 34]]
    assert person.confidence is not None
    assert 0 <= person.confidence[0] <= 1
    found = result.detections()
    assert (len(found), found["class_name"][0]) == (1, "person")


def test_detections_follow_supervision(serve: Serve) -> None:
    supervision = pytest.importorskip("supervision")
    with Client(serve()) as client:
        result = next(iter(client.stream([colour(1)], encoding="rgb")))
    found = result.detections()
    assert isinstance(found, supervision.Detections)
    assert result.mask is not None
    assert found.mask is not None
    assert found.class_id is not None
    assert found.class_id.tolist() == np.unique(result.mask).tolist()
    names = ("red", "green", "blue")
    assert found["class_name"].tolist() == [names[i] for i in found.class_id]
    assert np.array_equal(found.xyxy, supervision.mask_to_xyxy(np.asarray(found.mask)))
    for mask, number in zip(found.mask, found.class_id, strict=True):
        assert np.array_equal(mask, result.mask == number)
    painted = supervision.MaskAnnotator().annotate(result.frame.copy(), found)
    assert not np.array_equal(painted, result.frame)
    only = found[found.class_id == found.class_id[0]]
    assert len(only) == 1


def test_options_change_on_the_way(serve: Serve) -> None:
    with Client(serve(credits=1)) as client, client.stream(map(colour, range(12))) as stream:
        assert stream.started.period == 4
        results = iter(stream)
        next(results)
        stream.update(period=2)
        anchors = [r.is_anchor for r in results]
    assert sum(anchors) > 4


def test_options_change_after_the_last_frame_was_answered(serve: Serve) -> None:
    address = serve(credits=8)
    with Client(address) as client, client.stream(map(colour, range(3))) as stream:
        results = iter(stream)
        next(results)
        for _ in range(200):
            if not httpx.get(f"{address}/v1/streams").json()["streams"]:
                break
            time.sleep(0.02)
        time.sleep(0.2)  # the answer that it has ended, and the closing, are on their way
        stream.update(period=2)
        assert [r.index for r in results] == [1, 2]


def test_a_slow_reader_of_a_file_holds_no_more_than_the_credits(
    serve: Serve, engine: SlowEngine
) -> None:
    taken = 0

    def pictures() -> Iterator[Picture]:
        nonlocal taken
        for i in range(40):
            taken += 1
            yield colour(i)

    with Client(serve(credits=4)) as client:
        for read, result in enumerate(client.stream(pictures(), encoding="rgb"), 1):
            time.sleep(0.02)
            assert taken <= read + 4 + 3, "credits, two that wait, and one in the reader's hands"
            assert result.index == read - 1
    assert taken == 40


def test_a_live_source_drops_the_oldest_when_the_server_is_busy(
    serve: Serve, engine: SlowEngine
) -> None:
    engine.seconds = 0.1
    with Client(serve(credits=2)) as client:
        stream = client.stream(_camera(60), live=True, encoding="rgb")
        results = list(stream)
    assert stream.ended is not None
    lost = stream.drops
    assert lost["skipped"] > 0
    assert len(results) + lost.total() == 60
    assert len(results) < 40
    frames = [int(r.frame[0, 0, 0]) for r in results]
    assert frames == sorted(frames), "in order"
    assert frames[-1] == 59, "the newest always comes through"


def test_a_live_stream_gives_a_slow_reader_the_newest(serve: Serve) -> None:
    with Client(serve()) as client:
        stream = client.stream(_camera(60), live=True, encoding="rgb")
        seen = []
        for result in stream:
            seen.append(int(result.frame[0, 0, 0]))
            time.sleep(0.1)
    assert stream.drops["unread"] > 0
    assert len(seen) + stream.drops.total() == 60
    assert seen[-1] == 59


def _camera(count: int) -> Iterator[Picture]:
    """Pictures at 100 per second, numbered in their first pixel."""
    for i in range(count):
        picture = colour(0)
        picture[0, 0, 0] = i
        yield picture
        time.sleep(0.01)


def test_a_stream_is_iterated_once(serve: Serve) -> None:
    with Client(serve()) as client:
        stream = client.stream(map(colour, itertools.count()))
        with pytest.raises(RuntimeError, match="the stream is not open"):
            _ = stream.started
        for _ in stream:
            break
        with pytest.raises(RuntimeError, match="the stream was closed; expected a new one"):
            list(stream)


def test_breaking_out_ends_the_stream(serve: Serve) -> None:
    address = serve()
    with Client(address) as client:
        for _ in client.stream(map(colour, itertools.count())):
            break
        wait_for(lambda: gone(address))
    ours = ("resq-source", "resq-client")
    wait_for(lambda: not any(t.name.startswith(ours) for t in threading.enumerate()))


async def test_breaking_out_of_an_async_stream(serve: Serve) -> None:
    address = serve()
    async with AsyncClient(address) as client:
        async with client.stream(map(colour, itertools.count())) as stream:
            async for _ in stream:
                break
        await eventually(lambda: gone(address))
        left = client.stream(map(colour, itertools.count()))
        await left.open()
    await eventually(lambda: gone(address))


async def test_many_streams_of_one_client(serve: Serve) -> None:
    async def one(client: AsyncClient, shift: int) -> int:
        right = 0
        async for r in client.stream([colour(shift)] * 5, encoding="rgb"):
            assert r.mask is not None
            right += int(r.mask[24, 5]) == shift
        return right

    async with AsyncClient(serve()) as client:
        assert await asyncio.gather(*(one(client, i % 3) for i in range(6))) == [5] * 6


async def test_a_connection_that_breaks_is_taken_up(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.02
    async with Network(serve()) as network, AsyncClient(network.address) as client:
        stream = client.stream(map(colour, range(40)))
        count = 0
        async for result in stream:
            count += 1
            if result.index in (8, 20):
                network.cut()
                asyncio.get_running_loop().call_later(0.3, setattr, network, "whole", True)
        assert stream.started.resumed is not None
        assert set(stream.drops) == {"disconnected"}
        assert count + stream.drops["disconnected"] == 40


async def _count(results: AsyncIterator[FrameResult]) -> int:
    return len([r async for r in results])


async def test_patience_ends(serve: Serve) -> None:
    async with Network(serve()) as network, AsyncClient(network.address) as client:
        results = aiter(client.stream(map(colour, itertools.count()), patience=0.3))
        await anext(results)
        network.cut()
        with pytest.raises(RemoteError, match=r"did not come back within 0\.3 s"):
            await _count(results)


def test_errors_of_sources(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.mp4").write_text("no video")
    with Client(serve()) as client:
        for source, words in (
            ("nowhere.mp4", r"there is no file nowhere\.mp4"),
            (tmp_path / "empty", "holds no picture"),
            (tmp_path / "note.mp4", "cannot be read: damaged"),
            ("https://example.org/a.mp4", r"expected a path, webcam:0 or rtsp://"),
            ("webcam:7", r"webcam 7 .*cannot be opened: .*; webcams here: "),
            ("rtsp://127.0.0.1:9/live", "no video: .*; expected RTSP"),
        ):
            with pytest.raises(ClipError, match=words):
                list(client.stream(source))
        with pytest.raises(InputError, match=r"the source is a int; expected a path"):
            list(client.stream(5))  # type: ignore[arg-type]
        wrong: list[object] = [colour(0), np.zeros((3, 48, 64), np.float32)]
        stream = client.stream(wrong)  # type: ignore[arg-type]
        results = []
        with pytest.raises(InputError, match=r"picture 1 is float32 \[3, 48, 64\]; expected uint8"):
            results.extend(stream)


def test_results_come_before_the_sources_error(serve: Serve) -> None:
    def pictures() -> Iterator[Picture]:
        yield from (colour(0), colour(0), colour(0))
        raise ZeroDivisionError("of the caller's own")

    results: list[FrameResult] = []
    with Client(serve()) as client:
        stream = client.stream(pictures())
        with pytest.raises(ZeroDivisionError, match="caller's own"):
            results.extend(stream)
    check(results, 3)


def test_a_camera_that_is_lost_is_an_error(serve: Serve) -> None:
    device = open_device("lavfi", "testsrc=size=64x48:rate=10:duration=0.5", {})
    frames = []
    with pytest.raises(ClipError, match="webcam:0 gives no more pictures"):
        frames.extend(until_lost(device, "webcam:0"))
    device.close()
    assert len(frames) == 5
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[4].pts_us - frames[0].pts_us == 400_000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"period": 0}, "period is 0; expected greater than or equal to 1"),
        ({"perod": 4}, r"perod is no option; did you mean period\?"),
        ({"encoding": "gif"}, "encoding is 'gif'; expected jpeg, png or rgb"),
        ({"id": "a b"}, "id is 'a b'; expected"),
        ({"masks": np.zeros((2, 2, 3), np.uint8)}, r"masks is uint8 \[2, 2, 3\]; expected object"),
    ],
)
def test_bad_options_are_known_before_anything_is_opened(
    options: dict[str, object], words: str
) -> None:
    with (
        Client("http://127.0.0.1:9") as client,
        pytest.raises((OptionError, InputError), match=words),
    ):
        client.stream("nowhere", **options)  # type: ignore[arg-type]


def test_what_the_server_refuses(serve: Serve) -> None:
    with Client(serve()) as client:
        with pytest.raises(RemoteError, match="no model is called 'stret'") as refused:
            list(client.stream([colour(0)], model="stret"))
        assert refused.value.code == "bad_options"
        with pytest.raises(RemoteError, match="no clip has the id 'x'"):
            client.clips.get("x")
        with pytest.raises(RemoteError, match="Not Found"):
            client.clips.get("../models")


def test_nobody_is_there() -> None:
    with Client("http://127.0.0.1:9") as client:
        for call in (client.models, lambda: list(client.stream([colour(0)]))):
            with pytest.raises(UnreachableError, match=r"at http://127.0.0.1:9 .*`resq serve`"):
                call()
    for url in ("127.0.0.1:8000", "ftp://x", "http://", "http://user:secret@host"):
        with pytest.raises(OptionError, match="expected http://host:port") as error:
            Client(url)
        assert "secret" not in str(error.value)


def test_keys(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = add_key(tmp_path / "data", "me", (Scope.STREAM,))
    address = serve()
    for key, words in ((None, "needs an API key"), ("resq_1_x", "unknown or revoked")):
        with Client(address, key) as client:
            for call in (client.models, lambda c=client: list(c.stream([colour(0)]))):
                with pytest.raises(KeyRefusedError, match=f"{words}; expected one in RESQ_KEY"):
                    call()
    with Client(address, token) as client:
        assert len(list(client.stream([colour(0)]))) == 1
        with pytest.raises(RemoteError, match="has the scopes stream; expected clips"):
            client.clips.list()
    monkeypatch.setenv("RESQ_KEY", token)
    with Client(address) as client:
        assert client.models()


def test_the_server_ends_a_stream(serve: Serve) -> None:
    address = serve()
    with Client(address) as client:
        stream = client.stream(map(colour, itertools.count()), id="yard")
        results = iter(stream)
        next(results)
        httpx.delete(f"{address}/v1/streams/yard")
        with pytest.raises(RemoteError, match="the server ended the stream: deleted"):
            list(results)
    assert stream.ended is not None


def test_a_clip_as_a_job(serve: Serve, clip: Path, tmp_path: Path) -> None:
    with Client(serve()) as client:
        sent: list[tuple[int, int]] = []
        job = client.clips.upload(clip, progress=lambda a, b: sent.append((a, b)), period=4)
        size = clip.stat().st_size
        assert sent[-1] == (size, size)
        results = list(job.results())
        assert [r.index for r in results] == list(range(9))
        assert [r.is_anchor for r in results] == [i % 4 == 0 for i in range(9)]
        assert job.info.state == "done"
        assert job.report()["period"] == 4
        assert [c.id for c in client.clips.list()] == [job.id]
        path = job.download(tmp_path / "annotated.mp4")
        assert path.read_bytes()[4:8] == b"ftyp"
        job.cancel()
        assert client.clips.list() == ()
        with pytest.raises(RemoteError, match="no clip has the id"):
            job.refresh()


def test_clips_that_fail(serve: Serve, engine: SlowEngine, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    with Client(serve()) as client:
        with pytest.raises(FileNotFoundError):
            client.clips.upload(tmp_path / "nowhere.mp4")
        with pytest.raises(RemoteError, match="no model is called 'x'"):
            client.clips.upload(bad, model="x")
        with pytest.raises(OptionError, match="expected one of box, masks"):
            client.clips.upload(bad, fps=3)  # type: ignore[call-arg]
        job = client.clips.upload(bad)
        with pytest.raises(RemoteError, match=r"is failed: .*cannot be read"):
            job.download(tmp_path / "a.mp4")
        assert not list(tmp_path.glob("a.mp4*"))


async def test_results_of_a_clip_over_a_connection_that_breaks(
    serve: Serve, engine: SlowEngine, clip: Path
) -> None:
    engine.seconds = 0.1
    async with Network(serve()) as network, AsyncClient(network.address) as client:
        job = await client.clips.upload(clip)
        seen = []
        async for result in job.results():
            seen.append(result.index)
            if result.index == 3:
                network.cut()
                network.whole = True
        assert seen == list(range(9))


def test_a_closed_client(serve: Serve) -> None:
    client = Client(serve())
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.models()


def test_a_video_of_another_size_is_streamed_whole(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    with VideoWriter(path, 30, (50, 70)) as video:
        for i in range(5):
            video.write(colour(i, (50, 70)))
    with Client(serve()) as client:
        results = list(client.stream(path))
    assert {r.frame.shape for r in results} == {(50, 70, 3)}
    assert [r.pts_us for r in results] == [round(i * 1e6 / 30) for i in range(5)]
