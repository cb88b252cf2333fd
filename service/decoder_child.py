"""The inside of a decoder process: limits itself, then turns untrusted bytes into frames.

Imports av, numpy and Pillow, never torch or the server: starting one must cost little.
"""

from __future__ import annotations

import importlib
import io
import json
import mmap
import os
import pkgutil
import resource
import signal
import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from PIL import (
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from service.decoder import (
    Clip,
    ClipError,
    ClipFrame,
    ClipLimits,
    PacketDecoder,
    read_camera,
    read_clip,
    read_stream,
)
from service.decoder_wire import MAX_ANSWER, Kind, Message, receive
from service.pictures import IMAGE_FORMATS, DecodeError, Limits, Picture, decode_image

__all__ = ["main"]

_CHANNEL = 0  # the only descriptor that this process is started with
# Pillow imports these when it first meets such a picture; by then nothing can be opened
_LAZY = (JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)


def main() -> None:
    """Answer until the other side is gone."""
    channel = socket.socket(fileno=_CHANNEL)
    _warm_up()
    first, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 2)
    if not first:
        return
    options = json.loads(receive(io.BytesIO(first).read, len(first)).body)
    memory = mmap.mmap(descriptors[0], 0)
    os.close(descriptors[0])
    _limit(options["memory"], _next_descriptor() + 1 if options["input"] == "camera" else 0)
    worker = _worker(options, descriptors[1:])
    channel.sendall(Message(Kind.DONE).pack())
    while (question := _question(channel)) is not None:
        # should the server be gone too, a decoder that hangs ends itself
        signal.setitimer(signal.ITIMER_REAL, 2 * options["seconds"])
        channel.sendall(_answer(worker, question, memory).pack())
        signal.setitimer(signal.ITIMER_REAL, 0)
    os._exit(0)  # nothing to tidy up, and a codec may hang where it is disposed of


def _warm_up() -> None:
    """Have everything imported that av and Pillow would import later, when no file opens."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    for form in IMAGE_FORMATS:
        data = io.BytesIO()
        Image.new("RGB", (16, 16)).save(data, form)
        decode_image(data.getvalue(), Limits())


def _next_descriptor() -> int:
    found = os.dup(_CHANNEL)
    os.close(found)
    return found


def _limit(memory: int, descriptors: int) -> None:
    """No file can be written, memory is bounded, and no descriptor from this number on opened."""
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, descriptors),
        (resource.RLIMIT_DATA, memory),
    ):
        most = resource.getrlimit(limit)[1]
        if most == resource.RLIM_INFINITY or value < most:
            resource.setrlimit(limit, (value, value))


def _question(channel: socket.socket) -> Message | None:
    def read(count: int) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            got = channel.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return bytes(data)

    try:
        return receive(read, max_body=(1 << 32) - 1)
    except (EOFError, ConnectionError):
        return None


@dataclass(frozen=True, slots=True)
class _Found:
    """A picture and what is said about it; see Message."""

    number: int
    image: Picture
    count: int
    pts_us: int = 0


class _Stream:
    """Access units or pictures of one client."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._limits = Limits(**options["limits"])
        kind = options["input"]
        self._codec = None if kind == "image" else PacketDecoder(kind, self._limits)
        self._waiting: deque[tuple[int, Picture]] = deque()

    def ask(self, question: Message) -> _Found | None:
        if question.kind is Kind.DECODE:
            if self._codec is None:
                image = decode_image(question.body, self._limits)
                return _Found(question.number, image, 0)
            decoded = self._codec.decode(question.body, question.number)
            self._waiting = deque((d.seq, d.image) for d in decoded)
        elif question.kind is Kind.FLUSH and self._codec is not None:
            self._waiting = deque((d.seq, d.image) for d in self._codec.flush())
        if not self._waiting:
            return None
        number, image = self._waiting.popleft()
        return _Found(number, image, len(self._waiting))


class _File:
    """One uploaded clip, or one source of a pulled stream."""

    def __init__(self, options: dict[str, Any], descriptors: list[int]) -> None:
        limits = options["limits"]
        self._limits = ClipLimits(**limits | {"frame": Limits(**limits["frame"])})
        self._input: str = options["input"]
        self._name: str = options["name"]
        self._descriptors = descriptors
        self._clip: Clip | None = None
        self._frames: Iterator[ClipFrame] = iter(())

    def open(self) -> bytes:
        self._clip = clip = self._opened()
        self._frames = iter(clip)
        names = ("width", "height", "fps", "frames", "codec")
        return json.dumps({name: getattr(clip, name) for name in names}).encode()

    def _opened(self) -> Clip:
        if self._input == "camera":
            clip = read_camera(self._name, self._limits)
            # only numbers below this can be opened: that of the channel, which is in use. Zero
            # would do, but poll(2) takes no more entries than descriptors are allowed
            resource.setrlimit(resource.RLIMIT_NOFILE, (_CHANNEL + 1, _CHANNEL + 1))
            return clip
        file = io.FileIO(self._descriptors[0])
        if self._input == "source":
            return read_stream(file, self._limits)
        return read_clip(file, self._name, self._limits)

    def ask(self, _: Message) -> _Found | None:
        frame = next(self._frames, None)
        if frame is None or self._clip is None:
            return None
        return _Found(frame.index, frame.image, self._clip.damaged, frame.pts_us)

    @property
    def damaged(self) -> int:
        return 0 if self._clip is None else self._clip.damaged


def _worker(options: dict[str, Any], descriptors: list[int]) -> _Stream | _File:
    if options["input"] in ("clip", "source", "camera"):
        return _File(options, descriptors)
    return _Stream(options)


def _answer(worker: _Stream | _File, question: Message, memory: mmap.mmap) -> Message:
    try:
        if isinstance(worker, _File) and question.kind is Kind.OPEN:
            return Message(Kind.FACTS, body=worker.open())
        found = worker.ask(question)
        if found is None:
            return Message(Kind.DONE, count=worker.damaged if isinstance(worker, _File) else 0)
        height, width, _ = found.image.shape
        np.ndarray(found.image.shape, np.uint8, memory)[:] = found.image
        return Message(Kind.FRAME, found.number, found.pts_us, width, height, found.count)
    except DecodeError as error:
        return _refusal(error.reason, error)
    except ClipError as error:
        return _refusal("bad_clip", error)
    except MemoryError:
        return Message(Kind.MEMORY)


def _refusal(reason: str, error: Exception) -> Message:
    return Message(Kind.REFUSED, body=f"{reason}\n{error}".encode(errors="replace")[:MAX_ANSWER])
