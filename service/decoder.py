"""Video bytes in, frames out. Everything here is untrusted: only known containers and codecs,
never another file or URL; a damaged packet costs itself. The server does this in processes of
their own, see `decoder_process`."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

import av
import numpy as np
from av.codec.context import ThreadType
from av.container.input import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from service.closing import Closing
from service.pictures import (
    DecodeError,
    Limits,
    Picture,
    check_bytes,
    check_size,
    decode_image,
    short,
)

__all__ = [
    "Clip",
    "ClipError",
    "ClipFrame",
    "ClipLimits",
    "DecodeError",
    "Decoded",
    "Limits",
    "PacketDecoder",
    "Picture",
    "decode_image",
    "open_clip",
    "read_camera",
    "read_clip",
    "read_stream",
]

_OPEN_LOCK = threading.Lock()
_H264_IDR = 5
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts"
_STREAMS = "mpegts,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpjpeg"
_ANALYSE_US = 2_000_000  # of a live source before its first picture
_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg")
_SECOND = 1_000_000
_MAX_TIME = 1 << 62


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture uint8 [H, W, 3] RGB and the seq of the packet it came in."""

    seq: int
    image: Picture


class PacketDecoder:
    """H.264 (Annex B) or VP8, one access unit at a time. One thread at a time uses it.

    Starts, and starts again after a damaged packet, at an IDR: what depends on a missing picture
    would be wrong without any sign of it.
    """

    def __init__(self, codec: Literal["h264", "vp8"], limits: Limits) -> None:
        self.codec, self._limits = codec, limits
        self._context = self._open()
        self._synced = False

    def _open(self) -> VideoCodecContext:
        context = av.CodecContext.create(self.codec, "r")
        assert isinstance(context, VideoCodecContext)
        context.thread_type = ThreadType.SLICE  # frame threading would hold frames back
        context.thread_count = 1
        context.options = {"max_pixels": str(self._limits.max_pixels), "err_detect": "explode"}
        with _OPEN_LOCK:
            context.open()
        return context

    def decode(self, data: bytes, seq: int) -> list[Decoded]:
        """Pictures that this access unit completes; each carries the seq of its own packet.

        Raises:
            DecodeError: the packet is damaged, outside the limits, or comes before an IDR
                (`waiting_for_idr`). It costs itself, and what depends on it.
            MemoryError: there is not enough for it.
        """
        check_bytes(data, self._limits)
        if not self._synced and not is_idr(data, self.codec):
            raise DecodeError("waiting_for_idr", "frames are taken again from the next IDR on")
        packet = av.Packet(data)
        packet.pts = seq
        try:
            frames = self._context.decode(packet)
            self._synced = True
            return [self._picture(frame) for frame in frames]
        except DecodeError:
            self._restart()
            raise
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError) as error:
            self._restart()
            raise DecodeError(
                "bad_frame", f"not a readable {self.codec} access unit: {short(error)}"
            ) from error

    def flush(self) -> list[Decoded]:
        """Pictures that the codec still held back."""
        if not self._synced:
            return []
        try:
            return [self._picture(frame) for frame in self._context.decode(None)]
        except (av.FFmpegError, DecodeError):
            return []
        finally:
            self._restart()

    def _restart(self) -> None:
        self._context = self._open()
        self._synced = False

    def _picture(self, frame: VideoFrame) -> Decoded:
        if frame.is_corrupt:
            raise DecodeError("bad_frame", "the access unit is damaged")
        check_size(frame.width, frame.height, self._limits)
        if frame.pts is None:
            raise DecodeError("bad_frame", "the picture belongs to no packet")
        return Decoded(frame.pts, _rgb(frame))


def is_idr(data: bytes, codec: Literal["h264", "vp8"]) -> bool:
    """Whether an access unit can be decoded without any before it."""
    if codec == "vp8":
        return bool(data) and data[0] & 1 == 0
    start = data.find(b"\x00\x00\x01")
    while 0 <= start < len(data) - 3:
        if data[start + 3] & 0x1F == _H264_IDR:
            return True
        start = data.find(b"\x00\x00\x01", start + 3)
    return False


@dataclass(frozen=True, slots=True)
class ClipLimits:
    """What a clip may be: bytes of the file, seconds, frames, and each frame's own limits."""

    max_bytes: int = 2 << 30
    max_seconds: float = 3600.0
    max_frames: int = 200_000
    frame: Limits = field(default_factory=Limits)


class ClipError(ValueError):
    """A file that is no usable clip; the message says what was wrong and what was expected."""


@dataclass(frozen=True, slots=True)
class ClipFrame:
    """index: place in the clip; pts_us: microseconds since its start; image uint8 [H, W, 3] RGB."""

    index: int
    pts_us: int
    image: Picture


def _rgb(frame: VideoFrame) -> Picture:
    return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


class Clip(Closing):
    """An open clip: iterate it once, then close it. Use as a context manager.

    width, height: pixels, as the container declares them; a frame may differ.
    fps: mean frames per second.
    frames: the container's own count, 0 where it has none.
    damaged: packets so far that gave no picture.
    """

    def __init__(
        self,
        file: io.FileIO | None,
        container: InputContainer,
        stream: VideoStream,
        limits: ClipLimits,
    ) -> None:
        self._file, self._container, self._stream, self._limits = file, container, stream, limits
        self.width, self.height = stream.codec_context.width, stream.codec_context.height
        rate = stream.average_rate or stream.guessed_rate
        self.fps = min(max(float(rate), 1.0), 240.0) if rate else 25.0
        self.frames = max(stream.frames, 0)
        self.codec = stream.codec_context.name
        self.damaged = 0

    def __iter__(self) -> Iterator[ClipFrame]:
        index, first = 0, None
        for frame in self._decoded():
            if index >= self._limits.max_frames:
                raise ClipError(f"the clip has over {self._limits.max_frames} frames, the most")
            time = self._time_us(frame, index)
            first = time if first is None else first
            if abs(time - first) > self._limits.max_seconds * _SECOND:
                raise ClipError(
                    f"frame {index} is {(time - first) / _SECOND:.0f} s from the clip's start; "
                    f"expected at most {self._limits.max_seconds:g} s"
                )
            yield ClipFrame(index, time - first, self._picture(frame))
            index += 1
        if index == 0:
            raise ClipError("the clip has no frame that can be read; expected at least one")

    def _time_us(self, frame: VideoFrame, index: int) -> int:
        if frame.pts is None or frame.time_base is None:
            return round(index * _SECOND / self.fps)
        return round(frame.pts * frame.time_base * _SECOND)

    def _picture(self, frame: VideoFrame) -> Picture:
        try:
            check_size(frame.width, frame.height, self._limits.frame)
        except DecodeError as error:
            raise ClipError(str(error)) from error
        return _rgb(frame)

    def _decoded(self) -> Iterator[VideoFrame]:
        for packet in self._packets():
            try:
                yield from packet.decode()
            except MemoryError:
                raise
            except av.FFmpegError:
                self.damaged += 1

    def _packets(self) -> Iterator[av.Packet[VideoStream]]:
        """Those with bytes, then the empty one that ends the decoder, which any empty one would."""
        packets, end = self._container.demux(self._stream), None
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                # the container breaks off here, or names a size beyond all memory
                self.damaged += 1
                packet = None
            if packet is None:
                break
            if packet.size:
                yield packet
            else:
                self.damaged += end is not None
                end = packet
        if end is not None:
            yield end

    def close(self) -> None:
        """Release the file."""
        self._container.close()
        if self._file is not None:
            self._file.close()


class LiveClip(Clip):
    """One that has no end, and times of its own: a frame's `pts_us` is the source's, its `index`
    begins anew after 2**32. Damaged pictures are passed over."""

    def __iter__(self) -> Iterator[ClipFrame]:
        for number, frame in enumerate(self._decoded()):
            time = self._time_us(frame, number)
            if frame.is_corrupt or abs(time) >= _MAX_TIME:
                self.damaged += 1
                continue
            yield ClipFrame(number % (1 << 32), time, self._picture(frame))


class _Pipe:
    """A descriptor of which FFmpeg can only read on."""

    def __init__(self, file: io.FileIO) -> None:
        self.read = file.read


def read_stream(file: io.FileIO, limits: ClipLimits) -> LiveClip:
    """The video that comes out of a pipe; nothing else is ever opened.

    Raises:
        ClipError: another container or codec, damaged, without video, or outside the limits.
    """
    options = {
        "protocol_whitelist": "nothing",
        "format_whitelist": _STREAMS,
        "max_pixels": str(limits.frame.max_pixels),
        "analyzeduration": str(_ANALYSE_US),
    }
    expected = "MPEG-TS, Matroska, WebM, fragmented MP4, or Motion JPEG in parts"
    return _live(file, _Pipe(file), options, limits, expected)


def read_camera(url: str, limits: ClipLimits, timeout: float | None = None) -> LiveClip:
    """The video of an RTSP server, over TCP alone.

    Args:
        url: in the server it leads to its relay; FFmpeg would follow redirects, the relay refuses
            them.
        timeout: seconds to connect, and from picture to picture; the relay keeps its own.

    Raises:
        ClipError: as `read_stream`, and where the server refuses.
    """
    options = {
        "protocol_whitelist": "tcp,rtp",
        "format_whitelist": "rtsp",
        "rtsp_transport": "tcp",
        "allowed_media_types": "video",
        "max_pixels": str(limits.frame.max_pixels),
        "analyzeduration": str(_ANALYSE_US),
    }
    expected = "RTSP with H.264, HEVC or another known codec"
    return _live(None, url, options, limits, expected, timeout)


def _live(
    file: io.FileIO | None,
    source: _Pipe | str,
    options: dict[str, str],
    limits: ClipLimits,
    expected: str,
    timeout: float | None = None,
) -> LiveClip:
    try:
        form = "rtsp" if file is None else None
        container = av.open(
            source, "r", format=form, options=options, io_open=_refuse, timeout=timeout
        )
    except (av.FFmpegError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is malformed"  # all else may hold the URL
        raise ClipError(f"no video: {why}; expected {expected}") from error
    try:
        return LiveClip(file, container, _video_stream(container, "the source", limits), limits)
    except BaseException:
        container.close()
        raise


def open_clip(path: str | Path, limits: ClipLimits | None = None) -> Clip:
    """Open a video file.

    Raises:
        ClipError: missing, too big, of another container or codec, damaged, without video, or
            outside the limits. Frames are checked again as they come.
    """
    limits, path = limits or ClipLimits(), Path(path)
    if not path.is_file():
        raise ClipError(f"there is no file {path.name}")
    return read_clip(io.FileIO(path), path.name, limits)


def read_clip(file: io.FileIO, name: str, limits: ClipLimits) -> Clip:
    """The clip in an open file, which it closes; nothing else is ever opened.

    Args:
        name: what messages call it.

    Raises:
        ClipError: as `open_clip`.
    """
    try:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise ClipError(f"{name} is empty; expected a video file")
        if size > limits.max_bytes:
            raise ClipError(f"{name} has {size} bytes; expected at most {limits.max_bytes}")
        container = _container(file, name, limits)
        try:
            return Clip(file, container, _video_stream(container, name, limits), limits)
        except BaseException:
            container.close()
            raise
    except BaseException:
        file.close()
        raise


def _container(file: io.FileIO, name: str, limits: ClipLimits) -> InputContainer:
    try:
        # playlists, manifests and lists are no formats here, no protocol is called "nothing",
        # and whatever a demuxer may still ask for is refused
        return av.open(
            file,
            "r",
            options={
                "protocol_whitelist": "nothing",
                "format_whitelist": _CONTAINERS,
                "max_pixels": str(limits.frame.max_pixels),
            },
            io_open=_refuse,
        )
    except (av.FFmpegError, ValueError) as error:
        raise ClipError(
            f"{name} cannot be read: damaged, truncated, or not MP4, MOV, MKV, WebM, AVI or TS"
        ) from error


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise ClipError("the clip names another file or URL; only itself is read")


def _video_stream(container: InputContainer, name: str, limits: ClipLimits) -> VideoStream:
    if not container.streams.video:
        kinds = ", ".join(sorted({str(stream.type) for stream in container.streams}))
        raise ClipError(f"{name} holds no video that can be read, only {kinds or 'nothing'}")
    stream = container.streams.video[0]
    codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
    if codec not in _CODECS:
        raise ClipError(f"{name} is {codec} video; expected one of {', '.join(_CODECS)}")
    if container.duration is not None and container.duration > limits.max_seconds * _SECOND:
        raise ClipError(
            f"{name} is {container.duration / _SECOND:.0f} s long; "
            f"expected at most {limits.max_seconds:g} s"
        )
    if stream.frames > limits.max_frames:
        raise ClipError(f"{name} has {stream.frames} frames; expected at most {limits.max_frames}")
    context = stream.codec_context
    if context.width and context.height:
        try:
            check_size(context.width, context.height, limits.frame)
        except DecodeError as error:
            raise ClipError(f"{name}: {error}") from error
    stream.thread_type = ThreadType.SLICE
    return stream
