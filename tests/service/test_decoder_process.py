"""Decoder processes: the same frames as in this process, and what happens when one is lost."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from service import decoder_process
from service.decoder import ClipError, ClipLimits, PacketDecoder, open_clip
from service.decoder_process import DecoderLost, DecoderPool, StreamDecoder
from service.decoder_wire import BrokenAnswer, Kind, Message, receive
from service.pictures import DecodeError, Limits, decode_image
from tests.service.test_clip_reading import write
from tests.service.test_decoder import packets, picture

LIMITS = Limits()
MEMORY = 1 << 30
ROOT = Path(__file__).resolve().parents[2]
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")


def decoders() -> list[psutil.Process]:
    """Decoder processes of this one and of workers below it, and dead ones that nobody buried."""
    found, this = [], psutil.Process()
    for process in this.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            mine = process.ppid() == this.pid
            if "sys.path[:]" in str(process.cmdline()) or (mine and process.status() == "zombie"):
                found.append(process)
    return found


def settled(count: int) -> list[psutil.Process]:
    """So many decoders; one that was forked a moment ago is not one yet."""
    deadline = time.monotonic() + 10
    while len(found := decoders()) != count:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(0, 10.0, MEMORY)
    yield pool
    pool.close()
    assert decoders() == []


@pytest.fixture
def stream(pool: DecoderPool) -> Iterator[Callable[..., StreamDecoder]]:
    opened: list[StreamDecoder] = []

    def start(kind: str = "image", limits: Limits = LIMITS) -> StreamDecoder:
        opened.append(StreamDecoder(pool, kind, limits))  # type: ignore[arg-type]
        opened[-1].open()
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def process_of(stream: StreamDecoder) -> psutil.Process:
    assert stream._process is not None
    return psutil.Process(stream._process.pid)


def saved(mode: str, form: str, **options: Any) -> bytes:
    """A coloured picture of a Pillow mode as a file."""
    ramp = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3) // 37 % 256
    out = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(out, form, **options)
    return out.getvalue()


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = 6  # turned
    return tags


# each of these leads Pillow to other files of its own, and in a decoder none can be opened
PICTURES = {
    "jpeg": saved("RGB", "JPEG"),
    "progressive jpeg": saved("RGB", "JPEG", progressive=True),
    "cmyk jpeg": saved("CMYK", "JPEG"),
    "grey jpeg": saved("L", "JPEG"),
    "jpeg with exif": saved("RGB", "JPEG", exif=exif(), comment=b"\xe4"),
    "jpeg with two pictures": saved(
        "RGB", "MPO", save_all=True, append_images=[Image.new("L", (9, 9))]
    ),
    "png": saved("RGB", "PNG"),
    "palette png": saved("P", "PNG"),
    "png with alpha": saved("RGBA", "PNG"),
    "one bit png": saved("1", "PNG"),
    "animated png": saved("RGB", "PNG", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
    "webp": saved("RGB", "WEBP"),
    "lossless webp": saved("RGBA", "WEBP", lossless=True),
    "animated webp": saved(
        "RGB", "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48))]
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_those_of_this_process(
    stream: Callable[..., StreamDecoder], name: str
) -> None:
    remote, data = stream(), PICTURES[name]
    for seq in (7, 2**32 - 1):
        (found,) = remote.decode(data, seq)
        assert found.seq == seq
        assert np.array_equal(found.image, decode_image(data, LIMITS))


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_access_units_are_those_of_this_process(
    stream: Callable[..., StreamDecoder], codec: str
) -> None:
    remote, local = stream(codec), PacketDecoder(codec, LIMITS)  # type: ignore[arg-type]
    for seq, data in enumerate(packets(codec)):
        (found,), (wanted,) = remote.decode(data, seq), local.decode(data, seq)
        assert found.seq == wanted.seq
        assert np.array_equal(found.image, wanted.image)
    assert remote.flush() == []


def test_what_a_codec_holds_back_comes_with_the_flush(
    stream: Callable[..., StreamDecoder],
) -> None:
    units = reordered()
    remote, local = stream("h264"), PacketDecoder("h264", LIMITS)
    found = [d for seq, u in enumerate(units) for d in remote.decode(u, seq)]
    held = remote.flush()
    wanted = [d for seq, u in enumerate(units) for d in local.decode(u, seq)] + local.flush()
    assert len(held) > 1
    assert [d.seq for d in found + held] == [d.seq for d in wanted]
    for one, other in zip(found + held, wanted, strict=True):
        assert np.array_equal(one.image, other.image)


def reordered() -> list[bytes]:
    """H.264 access units with pictures that are shown later than they are decoded."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base = Fraction(1, 25)
    context.options = {"x264-params": "bframes=3:b-adapt=0:repeat-headers=1"}
    units = []
    for i in range(12):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * i, np.uint8))
        frame.pts = i
        units += [bytes(p) for p in context.encode(frame)]
    return units + [bytes(p) for p in context.encode(None)]


def test_a_bad_frame_costs_itself(stream: Callable[..., StreamDecoder]) -> None:
    remote = stream(limits=Limits(max_bytes=100_000, max_pixels=10_000))
    for data, reason in (
        (b"", "bad_frame"),
        (b"<svg/>", "bad_frame"),
        (picture(200, 200), "too_big"),
        (picture(4, 4), "too_small"),
        (bytes(100_001), "too_big"),
    ):
        with pytest.raises(DecodeError) as here:
            decode_image(data, Limits(max_bytes=100_000, max_pixels=10_000))
        with pytest.raises(DecodeError) as caught:
            remote.decode(data, 0)
        assert caught.value.reason == here.value.reason == reason
        assert str(caught.value) == str(here.value)
    assert len(remote.decode(picture(), 1)) == 1


def test_a_clip_is_that_of_this_process(pool: DecoderPool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    with open_clip(path) as local, pool.open_clip(path, ClipLimits()) as remote:
        for name in ("width", "height", "fps", "frames", "codec"):
            assert getattr(local, name) == getattr(remote, name)
        for one, other in zip(local, remote, strict=True):
            assert (one.index, one.pts_us) == (other.index, other.pts_us)
            assert np.array_equal(one.image, other.image)
        assert remote.damaged == 0


def test_clips_are_refused_as_in_this_process(pool: DecoderPool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    (tmp_path / "text.mp4").write_bytes(b"nothing of the kind" * 30)
    (tmp_path / "empty.mp4").touch()
    for name, limits in (
        ("text.mp4", ClipLimits()),
        ("empty.mp4", ClipLimits()),
        ("none.mp4", ClipLimits()),
        ("a.mp4", ClipLimits(max_bytes=100)),
        ("a.mp4", ClipLimits(max_seconds=0.1)),
        ("a.mp4", ClipLimits(max_frames=3)),
        ("a.mp4", ClipLimits(frame=Limits(min_side=60))),
    ):
        with pytest.raises(ClipError) as here:
            list(open_clip(path.with_name(name), limits))
        with pytest.raises(ClipError) as caught:
            list(pool.open_clip(path.with_name(name), limits))
        assert str(caught.value) == str(here.value)


def test_each_stream_has_a_process_that_nobody_had_before(
    stream: Callable[..., StreamDecoder],
) -> None:
    one, other = stream(), stream()
    pids = set()
    for remote in (one, other, stream()):
        remote.decode(picture(), 0)
        pids.add(process_of(remote).pid)
        remote.close()
        with pytest.raises(DecoderLost):
            remote.decode(picture(), 1)
    assert len(pids) == 3
    assert decoders() == []


def test_spares_are_kept_and_dead_ones_passed_over() -> None:
    with contextlib.closing(DecoderPool(2, 10.0, MEMORY)) as pool:
        pool.fill()
        first, second = sorted(p.pid for p in settled(2))
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        process = pool.take()
        assert process.pid == second
        settled(3)
    assert decoders() == []
    with pytest.raises(DecoderLost):
        pool.take()


@needs_proc
def test_a_decoder_owns_next_to_nothing(stream: Callable[..., StreamDecoder]) -> None:
    os.environ["RESQ_SECRET"] = "canary"
    with open(os.devnull) as inherited:  # noqa: PTH123
        os.set_inheritable(inherited.fileno(), True)
        remote = stream()
        remote.decode(picture(), 0)
    del os.environ["RESQ_SECRET"]
    process = process_of(remote)
    assert process.environ() == decoder_process._ENVIRONMENT
    assert "canary" not in str(process.environ())
    root = Path(f"/proc/{process.pid}")
    held = {int(fd.name): str(fd.readlink()) for fd in (root / "fd").iterdir()}
    assert held.pop(0).startswith("socket:")
    assert {held.pop(1), held.pop(2)} == {"/dev/null"}
    assert [name.split(" ")[0] for name in held.values()] == ["/memfd:resq-pictures"]
    assert (root / "cwd").readlink() == Path("/")
    wanted = {"core": 0, "fsize": 0, "nofile": 0, "data": MEMORY}
    for name, value in wanted.items():
        limit = getattr(psutil, f"RLIMIT_{name.upper()}")
        assert process.rlimit(limit) == (value, value)
    assert len(process.threads()) == 1


def test_a_decoder_imports_neither_torch_nor_the_server() -> None:
    code = "import json, sys, service.decoder_child; print(json.dumps(sorted(sys.modules)))"
    here = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in json.loads(here.stdout)}
    assert loaded.isdisjoint({"torch", "resq_core", "fastapi", "uvicorn", "pydantic", "typer"})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_is_said_and_leaves_nothing(
    stream: Callable[..., StreamDecoder], number: signal.Signals
) -> None:
    remote, other = stream("h264"), stream("h264")
    units = packets("h264")
    remote.decode(units[0], 0)
    other.decode(units[0], 0)
    before = psutil.Process().num_fds()
    process_of(remote).send_signal(number)
    with pytest.raises(DecoderLost, match=number.name) as caught:
        remote.decode(units[1], 1)
    assert caught.value.reason == "decoder_crashed"
    assert len(decoders()) == 1
    assert psutil.Process().num_fds() == before - 2
    assert len(other.decode(units[1], 1)) == 1


def test_a_hang_is_ended_in_time() -> None:
    pool = DecoderPool(0, 0.5, MEMORY)
    remote = StreamDecoder(pool, "image", LIMITS)
    remote.open()
    process_of(remote).suspend()
    start = time.monotonic()
    with pytest.raises(DecoderLost, match=r"0\.5 s") as caught:
        remote.decode(picture(), 1)
    assert caught.value.reason == "decoder_timeout"
    assert 0.4 < time.monotonic() - start < 5
    assert decoders() == []
    pool.close()


def test_a_hung_clip_is_ended_in_time(tmp_path: Path) -> None:
    pool = DecoderPool(0, 0.5, MEMORY)
    with pool.open_clip(write(tmp_path / "a.mp4"), ClipLimits()) as clip:
        frames = iter(clip)
        next(frames)
        psutil.Process(clip._process.pid).suspend()
        with pytest.raises(ClipError, match="decoder_timeout"):
            next(frames)
    assert decoders() == []
    pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_DATA")
def test_the_memory_limit_is_said() -> None:
    pool = DecoderPool(0, 30.0, 128 << 20)
    remote = StreamDecoder(pool, "image", Limits(max_pixels=40_000_000))
    remote.open()
    assert len(remote.decode(picture(), 0)) == 1
    with pytest.raises(DecoderLost, match="128 MiB") as caught:
        remote.decode(picture(6000, 6000, "PNG"), 1)
    assert caught.value.reason == "decoder_memory"
    assert decoders() == []
    pool.close()


def test_closing_wakes_who_waits(stream: Callable[..., StreamDecoder]) -> None:
    remote = stream()
    remote.decode(picture(), 0)
    process_of(remote).suspend()
    closing = threading.Timer(0.3, remote.close)
    closing.start()
    with pytest.raises(DecoderLost):
        remote.decode(picture(), 1)
    closing.join()
    assert decoders() == []


def test_no_decoder_outlives_its_server() -> None:
    code = """
import json, os, sys
from service.decoder_process import DecoderPool, StreamDecoder
from service.pictures import Limits
pool = DecoderPool(1, 10.0, 1 << 30)
pool.fill()
stream = StreamDecoder(pool, "h264", Limits())
stream.open()
print(stream._process.pid, pool._spares[0].pid, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT) as server:
        assert server.stdout is not None
        pids = [int(pid) for pid in server.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(runs, pids))
        server.kill()
    deadline = time.monotonic() + 10
    while any(map(runs, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != "zombie"  # whoever adopts it buries it
    except psutil.NoSuchProcess:
        return False


LIAR = """
import io, json, os, socket, sys, time
sys.path[:] = sys.argv[1:]
from service.decoder_wire import Kind, Message, receive
channel = socket.socket(fileno=0)
first, (memory, *_), _, _ = socket.recv_fds(channel, 1 << 16, 2)
channel.sendall(Message(Kind.DONE).pack())
channel.recv(1 << 16)
{lie}
time.sleep(30)
"""
LIES = {
    "a length beyond all bounds": "channel.sendall(Message(Kind.FACTS).pack()[:-4] + b'\\xff' * 4)",
    "no kind": "channel.sendall(b'\\x63' + Message(Kind.DONE).pack()[1:])",
    "a picture beyond the limits": "channel.sendall(Message(Kind.FRAME, 0, 0, 6000, 60000).pack())",
    "a picture of no size": "channel.sendall(Message(Kind.FRAME).pack())",
    "pictures without end": (
        "channel.sendall(Message(Kind.FRAME, 0, 0, 64, 64, count=2**32 - 1).pack())"
    ),
    "another kind": "channel.sendall(Message(Kind.FACTS, body=b'{}').pack())",
    "a question": "channel.sendall(Message(Kind.DECODE).pack())",
    "an unknown reason": "channel.sendall(Message(Kind.REFUSED, body=b'sudden\\nx').pack())",
    "memory that shrank": (
        "os.ftruncate(memory, 0); channel.sendall(Message(Kind.FRAME, 0, 0, 64, 64).pack())"
    ),
    "half a header": "channel.sendall(b'\\x10'); channel.close(); os._exit(3)",
    "a good-bye": "os._exit(0)",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_decoder_is_not_believed(
    stream: Callable[..., StreamDecoder], monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    monkeypatch.setattr(decoder_process, "_BOOT", LIAR.replace("{lie}", LIES[lie]))
    remote = stream()
    with pytest.raises(DecoderLost) as caught:
        remote.decode(picture(), 0)
    assert caught.value.reason == "decoder_crashed"
    assert decoders() == []


def test_an_answer_by_the_byte_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    trickle = "\n".join(
        (
            "for byte in Message(Kind.DONE).pack():",
            " channel.sendall(bytes([byte]))",
            " time.sleep(0.1)",
        )
    )
    monkeypatch.setattr(decoder_process, "_BOOT", LIAR.replace("{lie}", trickle))
    pool = DecoderPool(0, 0.5, MEMORY)
    remote = StreamDecoder(pool, "image", LIMITS)
    remote.open()
    with pytest.raises(DecoderLost) as caught:
        remote.decode(picture(), 0)
    assert caught.value.reason == "decoder_timeout"
    pool.close()


FACTS = '{"width":64,"height":48,"fps":25.0,"frames":2,"codec":"h264"}'


@pytest.mark.parametrize(
    "facts",
    ["", "{}", "[" * 4000, FACTS.replace("25.0", "1e9"), FACTS.replace("h264", "<b>")],
)
def test_facts_about_a_clip_are_not_believed(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, facts: str
) -> None:
    lie = f"channel.sendall(Message(Kind.FACTS, body={facts.encode()!r}).pack())"
    monkeypatch.setattr(decoder_process, "_BOOT", LIAR.replace("{lie}", lie))
    with pytest.raises(ClipError, match="decoder_crashed"):
        pool.open_clip(write(tmp_path / "a.mp4"), ClipLimits())
    assert decoders() == []


@pytest.mark.parametrize("frame", ["1, 0", "0, 2**62", "0, -(2**62)"])
def test_frames_of_a_clip_are_in_their_place(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, frame: str
) -> None:
    lie = "\n".join(
        (
            f"channel.sendall(Message(Kind.FACTS, body={FACTS.encode()!r}).pack())",
            "channel.recv(1 << 16)",
            f"channel.sendall(Message(Kind.FRAME, {frame}, 64, 48).pack())",
        )
    )
    monkeypatch.setattr(decoder_process, "_BOOT", LIAR.replace("{lie}", lie))
    with (
        pool.open_clip(write(tmp_path / "a.mp4"), ClipLimits()) as clip,
        pytest.raises(ClipError, match="decoder_crashed"),
    ):
        list(clip)


def test_messages_survive_their_bytes() -> None:
    message = Message(Kind.FRAME, 2**32 - 1, -(2**63), 640, 480, 7, b"body")
    data = iter([message.pack()[:-4], message.pack()[-4:]])
    assert receive(lambda count: next(data), 4) == message
    with pytest.raises(BrokenAnswer, match="at most 3"):
        receive(lambda count: message.pack()[:count], 3)
