"""Frames in, video out."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from service.closing import Closing

__all__ = ["BitstreamWriter", "VideoWriter", "bitstream_to_mp4"]

_CRF = 23


def _check(fps: float, size: tuple[int, int], crf: int) -> None:
    if not 1 <= fps <= 240:
        raise ValueError(f"fps is {fps}; expected 1 to 240")
    if min(size) < 2 or max(size) > 8192:
        raise ValueError(f"size is {size}; expected (height, width), each 2 to 8192 pixels")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf is {crf}; expected 0 to 51")


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def _frame(image: NDArray[np.uint8], size: tuple[int, int], pts: int) -> VideoFrame:
    """A checked picture, its odd sides padded by one pixel."""
    if image.dtype != np.uint8 or image.shape != (*size, 3):
        raise ValueError(
            f"the frame is {image.dtype} {list(image.shape)}; expected uint8 {[*size, 3]}"
        )
    pad = ((0, size[0] % 2), (0, size[1] % 2), (0, 0))
    padded = np.pad(image, pad, mode="edge") if any(map(sum, pad)) else image
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
    frame.pts = pts
    return frame


class VideoWriter(Closing):
    """H.264 yuv420p MP4 that any browser plays. Use as a context manager.

    Args:
        target: a path (the index is put in front), or a BytesIO (the index is at the end).
        fps: frames per second, 1 to 240.
        size: (height, width) in pixels of every frame; odd sides are padded by one pixel.
        crf: quality, 0 (lossless) to 51.

    Raises:
        ValueError: fps, size or crf out of range.
    """

    def __init__(
        self, target: str | Path | BytesIO, fps: float, size: tuple[int, int], crf: int = _CRF
    ) -> None:
        _check(fps, size, crf)
        self._size = size
        in_memory = isinstance(target, BytesIO)  # putting the index in front reopens the file
        self._container = av.open(
            target if in_memory else str(target),
            "w",
            format="mp4",
            options={} if in_memory else {"movflags": "+faststart"},
        )
        rate = _rate(fps)
        stream = self._container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = 1 / rate
        self._stream = stream
        self._written = 0
        self._closed = False

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append a frame, uint8 [H, W, 3] RGB of the writer's size.

        Raises:
            ValueError: another shape or type, or the writer is closed.
        """
        if self._closed:
            raise ValueError("the video is closed")
        frame = _frame(image, self._size, self._written)
        self._written += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is held back and the index; more calls do nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


class BitstreamWriter:
    """H.264 as a bare stream (Annex B), in which every frame is whole as soon as it is written.

    So it can be cut after any frame, and another writer of the same size can go on behind it.

    Args:
        append: takes the bytes.
        fps: frames per second, 1 to 240.
        size: (height, width) in pixels of every frame; odd sides are padded by one pixel.

    Raises:
        ValueError: fps or size out of range.
    """

    def __init__(self, append: Callable[[bytes], None], fps: float, size: tuple[int, int]) -> None:
        _check(fps, size, _CRF)
        self._append, self._size, self._written = append, size, 0
        context = av.CodecContext.create("libx264", "w")
        assert isinstance(context, VideoCodecContext)
        context.height, context.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        context.pix_fmt = "yuv420p"
        context.framerate = _rate(fps)
        context.time_base = 1 / _rate(fps)
        # zerolatency: no frame is held back and none refers to a later one
        context.options = {"crf": str(_CRF), "tune": "zerolatency"}
        self._context = context

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append a frame, uint8 [H, W, 3] RGB of the writer's size; ValueError for another."""
        packets = self._context.encode(_frame(image, self._size, self._written))
        self._written += 1
        for packet in packets:
            self._append(bytes(packet))


def bitstream_to_mp4(source: Path, target: Path, fps: float) -> None:
    """Put the frames of `BitstreamWriter`s into an MP4, its index in front, without encoding.

    Raises:
        OSError: it cannot be written.
    """
    tick = 1 / _rate(fps)
    try:
        with (
            av.open(str(source), format="h264") as bare,
            av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as video,
        ):
            stream = video.add_stream_from_template(bare.streams.video[0])
            stream.time_base = tick
            pts = 0
            for packet in bare.demux(video=0):
                if packet.size == 0:  # the end
                    continue
                packet.stream, packet.time_base = stream, tick
                packet.pts = packet.dts = pts
                packet.duration = 1
                video.mux(packet)
                pts += 1
    except av.FFmpegError as error:
        raise OSError(error.errno, f"the video cannot be written: {error.strerror}") from error
