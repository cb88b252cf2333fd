"""Media made to do harm: nothing else is opened, nothing grows, one stream ends at most."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import json
import os
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from service.decoder import ClipError, ClipLimits, open_clip
from service.decoder_process import DecoderPool
from service.messages import Outputs, StreamStart
from service.wire import Frame, Kind
from tests.service.conftest import SlowEngine, colour, encoded
from tests.service.test_clip_reading import write
from tests.service.test_clips import clip_bytes, finished, post
from tests.service.test_decoder import packets, picture
from tests.service.test_decoder_process import decoders
from tests.service.test_streams import drops, ended, eventually, raw, results, talk, until_closed

Serve = Callable[..., str]
SILENT = Outputs(mask="none")


@dataclass
class Canary:
    """A video file and a web server that nobody may touch."""

    file: Path
    url: str
    requests: list[str] = field(default_factory=list)

    def rest(self) -> None:
        """Forget what was; a file that was read last before it was written notes every read."""
        self.requests.clear()
        os.utime(self.file, (1, 2))

    @property
    def was_read(self) -> bool:
        return self.file.stat().st_atime_ns != 1_000_000_000


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    folder = tmp_path / "canary"
    folder.mkdir()
    write(folder / "canary.mp4")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def do_GET(self) -> None:
            canary.requests.append(self.path)
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    canary = Canary(folder / "canary.mp4", f"http://127.0.0.1:{server.server_port}/canary.mp4")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    canary.rest()
    yield canary
    server.shutdown()
    thread.join()
    server.server_close()


def hls(target: str) -> str:
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXT-X-PLAYLIST-TYPE:VOD\n"
    return f"{head}#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"


def concat(target: str) -> str:
    return f"ffconcat version 1.0\nfile '{target}'\n"


def dash(target: str) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        '<Period><AdaptationSet mimeType="video/mp4" contentType="video">'
        '<Representation id="1" bandwidth="1000" codecs="avc1.42c00b" width="64" height="48">'
        f"<BaseURL>{target}</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>"
    )


def sdp(target: str) -> str:
    host = "127.0.0.1" if "://" not in target else target.split("/")[2].split(":")[0]
    return (
        f"v=0\no=- 0 0 IN IP4 {host}\ns={target}\nc=IN IP4 {host}\nt=0 0\na=control:{target}\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )


def svg(target: str) -> str:
    return (
        '<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "' + target + '">]>'
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:l="http://www.w3.org/1999/xlink" '
        f'width="64" height="48"><image l:href="{target}" width="64" height="48"/>&x;</svg>'
    )


LISTS = {hls: "m3u8", concat: "ffconcat", dash: "mpd", sdp: "sdp", svg: "svg"}


def test_the_canaries_sing(canary: Canary, tmp_path: Path) -> None:
    """Without the limits of `service.decoder`, FFmpeg opens what a list names."""
    canary.file.read_bytes()
    if not canary.was_read:
        pytest.skip("this file system does not note when a file is read")

    def open_freely(text: str, form: str) -> None:
        path = tmp_path / "list"
        path.write_text(text)
        canary.rest()
        options = {"protocol_whitelist": "file,http,tcp", "extension_picky": "0", "safe": "0"}
        with contextlib.suppress(av.FFmpegError):
            av.open(str(path), format=form, options=options).close()

    open_freely(hls(canary.url), "hls")
    assert "/canary.mp4" in canary.requests
    open_freely(hls(str(canary.file)), "hls")
    assert canary.was_read
    open_freely(concat(str(canary.file)), "concat")
    assert canary.was_read


@pytest.mark.parametrize("kind", LISTS, ids=lambda kind: kind.__name__)
def test_an_upload_opens_nothing_else(serve: Serve, canary: Canary, kind: Any) -> None:
    address = serve()
    for target in (canary.url, str(canary.file), f"file:{canary.file}", "canary/canary.mp4"):
        text = kind(target)
        for data in (text.encode(), b"\0\0\0\x14ftypisom" + bytes(8) + text.encode()):
            state = finished(address, post(address, data).json()["id"])
            assert (state["state"], state["results"]) == ("failed", 0)
            assert "clip cannot be read" in state["error"]
    assert canary.requests == []
    assert not canary.was_read


@pytest.mark.parametrize("kind", LISTS, ids=lambda kind: kind.__name__)
def test_a_file_opens_nothing_else(
    pool: DecoderPool, canary: Canary, tmp_path: Path, kind: Any
) -> None:
    """With the name that its format goes by, and in this process as well."""
    path = tmp_path / f"list.{LISTS[kind]}"
    for target in (canary.url, str(canary.file), f"file:{canary.file}", "canary/canary.mp4"):
        path.write_text(kind(target))
        for read in (open_clip, pool.open_clip):
            with pytest.raises(ClipError, match="cannot be read"):
                read(path, ClipLimits())
    assert canary.requests == []
    assert not canary.was_read


async def test_a_streams_pictures_open_nothing_else(serve: Serve, canary: Canary) -> None:
    address = serve()
    frames = [kind(t).encode() for kind in LISTS for t in (canary.url, str(canary.file))]
    frames.append(encoded(colour(0)))
    answers = await talk(address, StreamStart(mode="lossless", outputs=SILENT), frames)
    assert ended(answers).drop_reasons == {"bad_frame": len(frames) - 1}
    for codec in ("h264", "vp8"):
        options = StreamStart(mode="lossless", input=codec, outputs=SILENT)  # type: ignore[arg-type]
        answers = await talk(address, options, frames)
        assert ended(answers).results == 0
    assert canary.requests == []
    assert not canary.was_read


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    code = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", code)


def png_bomb(side: int = 30_000) -> bytes:
    """Black, one bit a pixel: some hundred kilobytes for side² pixels."""
    row, packer = bytes(1 + (side + 7) // 8), zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png_with_text(size: int = 50_000_000) -> bytes:
    """A small PNG whose comment has this many characters."""
    data = encoded(colour(0))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(size), 9))
    return data[:33] + text + data[33:]


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG that says it has this size."""
    data = bytearray(picture())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


async def answer(socket: Any) -> str | bytes:
    """The next message that is no running total."""
    while True:
        data: str | bytes = await socket.recv()
        if isinstance(data, bytes) or json.loads(data)["type"] != "stats":
            return data


async def result(socket: Any) -> Frame:
    """The next message, which is a result."""
    data = await answer(socket)
    assert isinstance(data, bytes), data
    return Frame.unpack(data)


async def test_bombs_cost_themselves(serve: Serve) -> None:
    good = encoded(colour(0))
    sides = (65_535, 65_535), (65_535, 16), (16, 65_535)
    bombs = [png_bomb(), *(jpeg_of(*size) for size in sides), png_with_text()]
    address = serve()
    assert max(map(len, bombs)) < 300_000
    async with raw(address, {"type": "stream.start", "mode": "lossless"}) as socket:
        await socket.recv()
        peak = 0
        for seq, data in enumerate([good, *bombs, good]):
            await socket.send(Frame(Kind.IMAGE, seq, seq, data).pack())
            if 0 < seq <= len(bombs):
                reason = "bad_frame" if seq == len(bombs) else "too_big"
                assert json.loads(await answer(socket))["reason"] == reason
            else:
                assert (await result(socket)).seq == seq
            peak = max(peak, decoders()[0].memory_info().rss)
        assert peak < 150 << 20


async def test_a_codecs_huge_picture_costs_what_depends_on_it(serve: Serve) -> None:
    units = packets("vp8", 8)  # a key picture every fourth
    units[0] = units[0][:6] + struct.pack("<HH", 16_383, 16_383) + units[0][10:]
    options = StreamStart(mode="lossless", input="vp8", outputs=SILENT)
    answers = await talk(serve(credits=8), options, units)
    waiting = dict.fromkeys((1, 2, 3), "waiting_for_idr")
    assert drops(answers) == {0: "bad_frame", **waiting}
    assert [r.meta.seq for r in results(answers)] == [4, 5, 6, 7]


def test_a_clips_huge_picture_is_refused(pool: DecoderPool, tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mp4").read_bytes()
    at = whole.index(b"avc1", whole.index(b"stsd")) + 28
    path = tmp_path / "huge.mp4"
    path.write_bytes(whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :])
    assert outcome(pool, path) in (0, 12), "what counts is the codec's own size"


@pytest.mark.parametrize("kind", ["image", "h264", "vp8"])
async def test_frames_of_no_bytes_cost_themselves(serve: Serve, kind: Any) -> None:
    frames = [encoded(colour(i)) for i in range(4)] if kind == "image" else packets(kind, 4)
    options = StreamStart(mode="lossless", input=kind, outputs=SILENT)
    answers = await talk(serve(), options, [frames[0], b"", *frames[1:], b""])
    assert drops(answers) == {1: "bad_frame", 5: "bad_frame"}
    assert len(results(answers)) == 4


async def test_times_of_a_stream_may_be_anything(serve: Serve) -> None:
    times = [0, 2**63 - 1, -(2**63), 5, 5, -1]
    frames = packets("h264", len(times))
    start = {"type": "stream.start", "mode": "lossless", "input": "h264"}
    async with raw(serve(), start) as socket:
        await socket.recv()
        for seq, (time, data) in enumerate(zip(times, frames, strict=True)):
            await socket.send(Frame(Kind.H264, seq, time, data).pack())
            found = await result(socket)
            assert (found.seq, found.pts_us) == (seq, time)


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(0, 30.0, 512 << 20)
    yield pool
    pool.close()
    assert decoders() == []


def read(pool: DecoderPool, path: Path, **limits: Any) -> list[int]:
    """Times of a clip's frames, in microseconds."""
    with pool.open_clip(path, ClipLimits(**limits)) as clip:
        return [frame.pts_us for frame in clip]


def outcome(pool: DecoderPool, path: Path) -> int:
    """How many frames a damaged clip gave before it ended or was refused; no decoder is lost."""
    frames = 0
    try:
        with pool.open_clip(path, ClipLimits()) as clip:
            for _ in clip:
                frames += 1
    except ClipError as error:
        if str(error).startswith("decoder_"):
            raise
    return frames


def transport_stream(path: Path, start: int = 0, step: int = 3600, count: int = 8) -> Path:
    """MPEG-TS with frames every `step` ticks of 90 kHz."""
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frames = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(count)]
        coded = [p for f in frames for p in stream.encode(av.VideoFrame.from_ndarray(f))]
        for i, packet in enumerate(coded + stream.encode(None)):
            packet.pts = packet.dts = start + i * step
            packet.time_base = Fraction(1, 90_000)
            container.mux(packet)
    return path


def test_times_of_a_clip_that_jump(pool: DecoderPool, tmp_path: Path) -> None:
    late = transport_stream(tmp_path / "late.ts", 90_000 * 30)
    early = transport_stream(tmp_path / "early.ts")
    both = tmp_path / "both.ts"
    both.write_bytes(late.read_bytes() + early.read_bytes())
    times = read(pool, both)
    assert len(times) == 16
    assert times[8] < times[7], "the second half is earlier than the first"
    both.write_bytes(early.read_bytes() + late.read_bytes())
    with pytest.raises(ClipError, match="at most 20 s"):
        read(pool, both, max_seconds=20.0)


def test_times_of_a_clip_that_overflow(pool: DecoderPool, tmp_path: Path) -> None:
    wrapped = transport_stream(tmp_path / "wrap.ts", 2**33 - 4 * 3600)
    times = read(pool, wrapped)
    assert times == [40_000 * i for i in range(8)]
    whole = write(tmp_path / "a.mp4").read_bytes()
    at = whole.index(b"stts") + 12
    for delta in (2**31 - 1, 2**32 - 1):
        path = tmp_path / "stts.mp4"
        path.write_bytes(whole[: at + 4] + struct.pack(">I", delta) + whole[at + 8 :])
        assert outcome(pool, path) <= 12
    at = whole.index(b"mdhd") + 16
    slow = tmp_path / "slow.mp4"
    slow.write_bytes(whole[:at] + struct.pack(">I", 1) + whole[at + 4 :])
    assert outcome(pool, slow) == 0


def test_packets_of_no_bytes_in_a_clip(pool: DecoderPool, tmp_path: Path) -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data, path = bytearray(target.getvalue()), tmp_path / "hole.mp4"
    sizes = data.index(b"stsz") + 16
    data[sizes + 8 : sizes + 12] = bytes(4)  # of the third frame
    path.write_bytes(data)
    with pool.open_clip(path, ClipLimits()) as clip:
        assert len(list(clip)) == 5
        assert clip.damaged == 1


@pytest.mark.parametrize("form", ["mp4", "matroska", "webm", "avi", "mpegts"])
def test_truncated_files(pool: DecoderPool, tmp_path: Path, form: str) -> None:
    target = io.BytesIO()
    codec = "libvpx" if form == "webm" else "libx264"
    with av.open(target, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            noise = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise)))
        container.mux(stream.encode(None))
    data, path = target.getvalue(), tmp_path / "cut"
    path.write_bytes(data)
    assert len(read(pool, path)) == 20
    for share in (0.01, 0.3, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        assert outcome(pool, path) < 20


async def test_an_endless_stream_stays_within_its_memory(serve: Serve) -> None:
    units = packets("h264", 8)
    start = {"type": "stream.start", "mode": "lossless", "input": "h264"}
    async with raw(serve(), {**start, "outputs": {"mask": "none"}}) as socket:
        await socket.recv()
        seq = 0

        async def go_on(rounds: int) -> int:
            nonlocal seq
            for _ in range(rounds):
                for data in units:
                    await socket.send(Frame(Kind.H264, seq, seq, data).pack())
                    seq += 1
                    await result(socket)
            return int(decoders()[0].memory_info().rss)

        before = await go_on(20)
        after = await go_on(60)
    assert after - before < 2 << 20


def test_an_endless_clip_ends_at_its_limits(serve: Serve) -> None:
    address = serve(max_clip_frames=20, max_clip_seconds=2.0)
    state = finished(address, post(address, clip_bytes(21)).json()["id"])
    assert state["state"] == "failed"
    assert "expected at most" in state["error"]


async def lose(address: str, codec: str, harm: Callable[[psutil.Process], None]) -> Any:
    """What a stream is told whose decoder comes to harm after its first frame."""
    units = packets(codec, 6) if codec != "image" else [encoded(colour(i)) for i in range(6)]
    kind = {"h264": Kind.H264, "vp8": Kind.VP8, "image": Kind.IMAGE}[codec]
    before = {p.pid for p in decoders()}
    start = {"type": "stream.start", "mode": "lossless", "input": codec}
    async with raw(address, start) as socket:
        await socket.recv()
        await socket.send(Frame(kind, 0, 0, units[0]).pack())
        assert (await result(socket)).seq == 0
        (victim,) = (p for p in decoders() if p.pid not in before)
        harm(victim)
        with contextlib.suppress(ConnectionClosed):
            for seq in (1, 2, 3):
                await socket.send(Frame(kind, seq, seq, units[seq]).pack())
        texts, code, reason = await until_closed(socket)
    assert not psutil.pid_exists(victim.pid)
    return [m for m in texts if isinstance(m, dict)], code, reason


HARM: dict[str, tuple[str, Callable[[psutil.Process], None]]] = {
    "kill": ("decoder_crashed", lambda process: process.kill()),
    "stop": ("decoder_timeout", lambda process: process.suspend()),
}


@pytest.mark.parametrize("codec", ["image", "h264", "vp8"])
@pytest.mark.parametrize("harm", HARM)
async def test_a_lost_decoder_ends_its_stream_only(
    serve: Serve, engine: SlowEngine, harm: str, codec: str
) -> None:
    address = serve(decoder_timeout=2.0)
    wanted, act = HARM[harm]
    other = [encoded(colour(i % 3)) for i in range(40)]
    engine.seconds = 0.03
    async with asyncio.TaskGroup() as group:
        beside = group.create_task(
            talk(address, StreamStart(mode="lossless", outputs=SILENT), other)
        )
        await eventually(lambda: len(decoders()) == 1)
        told, code, reason = await lose(address, codec, act)
    assert (code, reason) == (1011, wanted)
    (error,) = (m for m in told if m["type"] == "error")
    assert (error["code"], error["fatal"]) == (wanted, True)
    lost = [m for m in told if m["type"] == "drop"]
    assert {m["reason"] for m in lost} == {wanted}
    last = told[-1]
    assert (last["type"], last["reason"]) == ("stream.ended", wanted)
    assert (last["received"], last["results"]) == (1 + len(lost), 1)
    assert last["received"] >= 2
    assert ended(beside.result()).results == 40
    await eventually(lambda: decoders() == [])
    again = await talk(address, StreamStart(mode="lossless", outputs=SILENT), other[:2])
    assert ended(again).results == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_DATA")
@pytest.mark.skipif(
    os.environ.get("TEST_ENGINE") == "ray",
    reason="the memory of decoders elsewhere is a setting of their workers, not of this server",
)
async def test_a_stream_that_needs_too_much_memory_ends(serve: Serve) -> None:
    address = serve(decoder_memory=128 << 20, max_pixels=40_000_000)
    start = {"type": "stream.start", "mode": "lossless"}
    async with raw(address, start) as socket:
        await socket.recv()
        await socket.send(Frame(Kind.IMAGE, 0, 0, encoded(colour(0))).pack())
        assert (await result(socket)).seq == 0
        await socket.send(Frame(Kind.IMAGE, 1, 1, picture(6000, 6000, "PNG")).pack())
        told, code, reason = await until_closed(socket)
    assert (code, reason) == (1011, "decoder_memory")
    (error,) = (m for m in told if m["type"] == "error")
    assert "128 MiB" in error["message"]
    assert told[-1]["drop_reasons"] == {"decoder_memory": 1}


def test_a_clip_whose_decoder_is_lost_fails(serve: Serve, engine: SlowEngine) -> None:
    address = serve(decoder_timeout=1.0)
    for wanted, harm in HARM.values():
        engine.seconds = 0.1
        job = post(address, clip_bytes(60)).json()["id"]
        while httpx.get(f"{address}/v1/clips/{job}").json()["results"] == 0:
            pass
        (victim,) = decoders()
        harm(victim)
        state = finished(address, job)
        assert state["state"] == "failed"
        assert state["error"].startswith(wanted)
        assert 0 < state["results"] < 60
        lines = httpx.get(f"{address}/v1/clips/{job}/results").text.splitlines()
        assert len(lines) == state["results"]
        assert decoders() == []
        engine.seconds = 0.0
        assert finished(address, post(address, clip_bytes()).json()["id"])["state"] == "done"


async def test_a_clip_that_hangs_holds_up_no_stream(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.05
    address = serve(decoder_timeout=60.0)
    await asyncio.to_thread(post, address, clip_bytes(60))
    await eventually(lambda: len(decoders()) == 1)
    decoders()[0].suspend()
    async with asyncio.timeout(20):
        answers = await talk(
            address, StreamStart(mode="lossless", outputs=SILENT), [encoded(colour(0))] * 4
        )
    assert ended(answers).results == 4


async def test_streams_leave_no_process_thread_or_descriptor(serve: Serve) -> None:
    others = len(psutil.Process().children())  # of earlier tests
    address = serve(decoders=1)
    frames, options = packets("h264", 3), StreamStart(mode="lossless", input="h264", outputs=SILENT)

    async def held() -> tuple[int, int, int]:
        await talk(address, options, frames)
        await eventually(lambda: len(decoders()) == 1)
        httpx.get(f"{address}/healthz")
        this = psutil.Process()
        return len(this.children()) - others, this.num_threads(), this.num_fds()

    for _ in range(3):
        before = await held()
    for _ in range(8):
        await held()
    this = psutil.Process()
    assert len(this.children()) - others == before[0] == 1
    await eventually(lambda: this.num_threads() <= before[1] + 1)
    await eventually(lambda: this.num_fds() <= before[2] + 1)
