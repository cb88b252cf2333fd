from __future__ import annotations

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from service.decoder import ClipError, ClipLimits, Limits, open_clip
from service.encoder import VideoWriter


def write(path: Path, count: int = 12, size: tuple[int, int] = (47, 65)) -> Path:
    with VideoWriter(path, 25, size) as video:
        for i in range(count):
            video.write(np.full((*size, 3), 5 * i, np.uint8))
    return path


def audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    with open_clip(write(tmp_path / "a.mp4")) as clip:
        assert (clip.width, clip.height, clip.fps, clip.frames) == (66, 48, 25.0, 12)
        frames = list(clip)
    assert [f.index for f in frames] == list(range(12))
    assert [f.pts_us for f in frames] == [40_000 * i for i in range(12)]
    assert all(abs(float(f.image.mean()) - 5 * f.index) < 4 for f in frames)


def test_the_index_comes_first_and_memory_works_too(tmp_path: Path) -> None:
    data = write(tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    target = BytesIO()
    with VideoWriter(target, 10, (32, 32)) as video:
        video.write(np.zeros((32, 32, 3), np.uint8))
    assert target.getvalue()[4:8] == b"ftyp"


def test_the_writer_checks_what_it_gets(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10, (32, 32)) as video:
        with pytest.raises(ValueError, match="expected uint8"):
            video.write(np.zeros((32, 30, 3), np.uint8))
        video.write(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="closed"):
        video.write(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="fps"):
        VideoWriter(tmp_path / "b.mp4", 0, (32, 32))


def test_unusable_files_say_why(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mp4").read_bytes()
    target = BytesIO()
    with VideoWriter(target, 10, (64, 64)) as video:
        video.write(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    cases = {
        "empty.mp4": (b"", "empty"),
        "cut.mp4": (whole[:300], "no video that can be read"),
        "headless.mp4": (target.getvalue()[:600], "truncated"),
        "text.mp4": (b"hello world" * 40, "cannot be read"),
        "list.m3u8": (b"#EXTM3U\n#EXTINF:1,\n" + str(tmp_path / "a.mp4").encode(), "cannot be"),
        "list.txt": (b"ffconcat version 1.0\nfile a.mp4\n", "cannot be read"),
    }
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ClipError, match=words):
            list(open_clip(tmp_path / name))
    with pytest.raises(ClipError, match="no file"):
        open_clip(tmp_path / "none.mp4")
    with pytest.raises(ClipError, match="only audio"):
        open_clip(audio(tmp_path / "sound.mp4"))


def test_a_clip_without_frames_is_refused(tmp_path: Path) -> None:
    VideoWriter(tmp_path / "zero.mp4", 25, (32, 32)).close()
    with pytest.raises(ClipError):
        list(open_clip(tmp_path / "zero.mp4"))


def test_a_clip_cut_in_its_data_gives_its_whole_frames(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mp4", count=40, size=(96, 96)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: whole.index(b"mdat") + 900])
    with open_clip(tmp_path / "cut.mp4") as clip:
        frames = list(clip)
    assert 0 < len(frames) < 40


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (ClipLimits(max_bytes=100), "bytes"),
        (ClipLimits(max_seconds=0.1), "s long"),
        (ClipLimits(max_frames=3), "frames"),
        (ClipLimits(frame=Limits(max_pixels=1000)), "pixels"),
        (ClipLimits(frame=Limits(min_side=60)), "at least 60"),
    ],
)
def test_limits_hold(tmp_path: Path, limits: ClipLimits, words: str) -> None:
    with pytest.raises(ClipError, match=words):
        list(open_clip(write(tmp_path / "a.mp4"), limits))
