"""Decoding in processes of its own: a crash, a hang or too much memory ends one stream or clip.

A process serves one stream or one clip and is killed after it; spare ones wait, imported and warm.
It starts with one descriptor and an empty environment, gets its memory for pictures and a clip as
open descriptors, and then can open nothing more (`decoder_child`). What it answers is checked here
like anything else that strangers send.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.closing import Closing
from service.decoder import ClipError, ClipFrame, ClipLimits, Decoded
from service.decoder_wire import MAX_ANSWER, BrokenAnswer, Kind, Message, receive
from service.pictures import DecodeError, Limits, Picture, check_size

__all__ = [
    "ClipFacts",
    "DecoderLost",
    "DecoderPool",
    "DecoderProcess",
    "RemoteClip",
    "StreamDecoder",
]

_log = logging.getLogger("resq.decoder")
_START_SECONDS = 30.0
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # its threads would each reserve memory
    # glibc gives memory back after every picture otherwise, and the next one pays for it anew
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
_MAX_PICTURES = 64  # that one access unit may complete
_REASONS = ("bad_frame", "too_small", "too_big", "waiting_for_idr")
_ROOT = str(Path(__file__).resolve().parents[1])
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from service.decoder_child import main; main()"


class DecoderLost(Exception):  # noqa: N818 - an end, and it is told apart by its reason
    """The process is gone, and its stream or clip with it.

    `reason` is `decoder_crashed`, `decoder_timeout` or `decoder_memory`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DecoderProcess:
    """One child. Blocking; one thread at a time asks, any thread may close.

    Args:
        seconds: how long an answer may take.
        memory: bytes that the process may allocate.

    Raises:
        DecoderLost: it could not be started, or later: it crashed, hung or lied.
    """

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds, self._memory = seconds, memory
        self._asking, self._closing = threading.Lock(), False
        self._pictures: int | None = None
        try:
            self._channel, theirs = socket.socketpair()
        except OSError as error:
            raise _no_start(error) from error
        path = [str(Path(entry).resolve()) for entry in (*sys.path, _ROOT)]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _BOOT, *path],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=_ENVIRONMENT,
                    start_new_session=True,  # Ctrl-C is the server's to answer
                )
        except OSError as error:
            self._channel.close()
            raise _no_start(error) from error

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def start(
        self,
        kind: Literal["image", "h264", "vp8", "clip", "source", "camera"],
        limits: Limits | ClipLimits,
        name: str = "",
        descriptors: Sequence[int] = (),
        seconds: float | None = None,
    ) -> None:
        """Give it its task, once.

        Args:
            limits: ClipLimits for a clip, source or camera, else Limits.
            name: of the clip; of a camera the URL.
            descriptors: what a clip or a source is read from; it stays the caller's.
            seconds: how long an answer may take, instead of what the process was made with.
        """
        self._seconds = seconds or self._seconds
        frame = limits.frame if isinstance(limits, ClipLimits) else limits
        options = {
            "input": kind,
            "name": name,
            "limits": asdict(limits),
            "memory": self._memory,
            "seconds": self._seconds,
        }
        with self._asking:
            if self._channel.fileno() < 0:
                raise DecoderLost("decoder_crashed", "the decoder was closed")
            try:
                self._pictures = _anonymous_file(3 * frame.max_pixels)
            except OSError as error:
                raise _no_start(error) from error
        question = Message(Kind.START, body=json.dumps(options).encode())
        self.ask(question, (Kind.DONE,), [self._pictures, *descriptors], _START_SECONDS)

    def ask(
        self,
        question: Message,
        expected: tuple[Kind, ...],
        descriptors: Sequence[int] = (),
        seconds: float | None = None,
    ) -> Message:
        """The answer, of an expected kind.

        Raises:
            DecodeError: the bytes were refused; the process goes on.
            ClipError: the clip was refused.
            DecoderLost: there is no process any more.
        """
        seconds = self._seconds if seconds is None else seconds
        deadline = time.monotonic() + seconds
        with self._asking:
            if self._channel.fileno() < 0:
                raise DecoderLost("decoder_crashed", "the decoder was closed")
            try:
                self._channel.settimeout(seconds)
                if descriptors:
                    socket.send_fds(self._channel, [question.pack()], descriptors)
                else:
                    self._channel.sendall(question.pack())
                answer = receive(lambda count: self._read(count, deadline), MAX_ANSWER)
            except TimeoutError:
                self._lose("decoder_timeout", f"the decoder gave no answer within {seconds:g} s")
            except (EOFError, OSError):
                self._lose("decoder_crashed", f"the decoder {self._fate()}")
            except BrokenAnswer as error:
                self._lose("decoder_crashed", f"the decoder answered nonsense: {error}")
            if answer.kind is Kind.MEMORY:
                limit = self._memory >> 20
                self._lose("decoder_memory", f"the decoder needed more than {limit} MiB of memory")
            if answer.kind is Kind.REFUSED:
                self._refuse(answer.body)
            if answer.kind not in expected:
                self._lose(
                    "decoder_crashed", f"the decoder answered {answer.kind.name} out of turn"
                )
            return answer

    def picture(self, answer: Message, limits: Limits) -> Picture:
        """The picture of a FRAME, uint8 [H, W, 3], copied: the next answer overwrites it."""
        width, height = answer.width, answer.height
        try:
            check_size(width, height, limits)
        except DecodeError as error:
            self.fail(str(error))
        size = 3 * width * height
        with self._asking:
            data = b"" if self._pictures is None else os.pread(self._pictures, size, 0)
        if len(data) != size:
            self.fail(f"it gave {len(data)} of {size} bytes of a picture")
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def fail(self, problem: str) -> NoReturn:
        """End it because of an answer that cannot be."""
        with self._asking:
            self._lose("decoder_crashed", f"the decoder answered nonsense: {problem}")

    def close(self) -> None:
        """Kill and bury it; who waits for an answer gets DecoderLost. More calls do nothing."""
        self._closing = True
        self._process.kill()
        with self._asking:
            self._free()

    def _read(self, count: int, deadline: float) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._channel.settimeout(left)
            got = self._channel.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return bytes(data)

    def _refuse(self, body: bytes) -> NoReturn:
        reason, _, text = body.decode(errors="replace").partition("\n")
        message = "".join(c if c.isprintable() else " " for c in text[:500])
        if reason == "bad_clip":
            raise ClipError(message)
        if reason not in _REASONS:
            self._lose("decoder_crashed", "the decoder answered nonsense: an unknown reason")
        raise DecodeError(reason, message)

    def _fate(self) -> str:
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code >= 0:
            return f"ended with status {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    def _lose(self, reason: str, message: str) -> NoReturn:
        self._free()
        if not self._closing:
            _log.warning("decoder process %d is lost: %s: %s", self.pid, reason, message)
        raise DecoderLost(reason, message)

    def _free(self) -> None:
        self._process.kill()
        self._process.wait()
        self._channel.close()
        if self._pictures is not None:
            os.close(self._pictures)
            self._pictures = None


def _no_start(error: OSError) -> DecoderLost:
    message = f"no decoder process could be started: {error.strerror}"
    return DecoderLost("decoder_crashed", message)


def _anonymous_file(size: int) -> int:
    """The descriptor of a file without a name, in memory where the system can."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("resq-pictures")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class DecoderPool:
    """Hands out processes, each of them once. Any thread.

    Args:
        spares: processes that wait for their stream.
        seconds: how long a decoder may take for one access unit, picture, or frame of a clip.
        memory: bytes that a decoder may allocate.
    """

    def __init__(self, spares: int, seconds: float, memory: int) -> None:
        self._count, self._seconds, self._memory = spares, seconds, memory
        self._lock = threading.Lock()
        self._spares: deque[DecoderProcess] = deque()
        self._out: set[DecoderProcess] = set()
        self._closed = False

    def fill(self) -> None:
        """Start spare processes up to their number; they get warm by themselves."""
        while True:
            with self._lock:
                if self._closed or len(self._spares) >= self._count:
                    return
                self._spares.append(DecoderProcess(self._seconds, self._memory))

    @property
    def busy(self) -> int:
        """Processes that were taken and not ended."""
        return len(self._out)

    @property
    def pids(self) -> list[int]:
        """Of the processes that were taken and not ended."""
        with self._lock:
            return [process.pid for process in self._out]

    def take(self) -> DecoderProcess:
        """A fresh process; `end` it.

        Raises:
            DecoderLost: there is none and none can be started.
        """
        with self._lock:
            if self._closed:
                raise DecoderLost("decoder_crashed", "the server shuts down")
            process = self._spare() or DecoderProcess(self._seconds, self._memory)
            self._out.add(process)
        with contextlib.suppress(DecoderLost):  # this stream has its own
            self.fill()
        return process

    def _spare(self) -> DecoderProcess | None:
        while self._spares:
            process = self._spares.popleft()
            if process.alive:
                return process
            process.close()
        return None

    def end(self, process: DecoderProcess) -> None:
        """Kill a process that was taken."""
        process.close()
        with self._lock:
            self._out.discard(process)

    def close(self) -> None:
        """Kill every process; none is handed out any more."""
        with self._lock:
            self._closed = True
            processes = [*self._spares, *self._out]
            self._spares.clear()
            self._out.clear()
        for process in processes:
            process.close()

    def open_clip(self, path: Path, limits: ClipLimits) -> RemoteClip:
        """As `decoder.open_clip`, in a process of its own.

        Raises:
            ClipError: the file is no usable clip, or its decoder was lost.
        """
        if not path.is_file():
            raise ClipError(f"there is no file {path.name}")
        return RemoteClip(self, path, limits)


class StreamDecoder:
    """The decoder of one stream. `open` it, then one thread decodes.

    Args:
        kind: what `decode` is given: pictures, or access units of a codec.
        limits: of a frame.
    """

    def __init__(
        self, pool: DecoderPool, kind: Literal["image", "h264", "vp8"], limits: Limits
    ) -> None:
        self._pool, self._kind, self._limits = pool, kind, limits
        self._lock = threading.Lock()
        self._process: DecoderProcess | None = None
        self._closed = False

    def open(self) -> None:
        """Take a process and wait until it can decode, once.

        Raises:
            DecoderLost: there is none, or the stream was closed meanwhile.
        """
        process = self._pool.take()
        with self._lock:
            self._process, closed = process, self._closed
        if closed:
            self._pool.end(process)
        process.start(self._kind, self._limits)

    def decode(self, data: bytes, seq: int) -> list[Decoded]:
        """As `PacketDecoder.decode`, and pictures as `decode_image`.

        Raises:
            DecodeError: this frame cannot be had.
            DecoderLost: none can any more.
        """
        return self._ask(Message(Kind.DECODE, number=seq, body=data))

    def flush(self) -> list[Decoded]:
        """Pictures that the codec still held back. Raises DecoderLost."""
        return self._ask(Message(Kind.FLUSH))

    def close(self) -> None:
        """End the process, from any thread; a `decode` that runs raises DecoderLost."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            self._pool.end(process)

    def _ask(self, question: Message) -> list[Decoded]:
        assert self._process is not None
        found: list[Decoded] = []
        answer = self._process.ask(question, (Kind.FRAME, Kind.DONE))
        if answer.count > _MAX_PICTURES:
            self._process.fail(f"{answer.count} pictures of one access unit")
        for left in range(answer.count, -1, -1):
            if answer.kind is Kind.DONE:
                break
            image = self._process.picture(answer, self._limits)
            found.append(Decoded(answer.number, image))
            if left:
                answer = self._process.ask(Message(Kind.NEXT), (Kind.FRAME,))
        return found


class ClipFacts(BaseModel):
    """What a decoder says about a clip."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    width: Annotated[int, Field(ge=0, le=1 << 16)]
    height: Annotated[int, Field(ge=0, le=1 << 16)]
    fps: Annotated[float, Field(ge=1, le=240)]
    frames: Annotated[int, Field(ge=0)]
    codec: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,20}$")]


class RemoteClip(Closing):
    """A `Clip` whose file is read by a process of its own; used the same way.

    Raises:
        ClipError: also when the process is lost; the message begins with the reason.
    """

    def __init__(self, pool: DecoderPool, path: Path, limits: ClipLimits) -> None:
        self._pool, self._limits = pool, limits
        self.damaged = 0
        try:
            self._process = pool.take()
        except DecoderLost as error:
            raise _clip_lost(error) from error
        try:
            with path.open("rb", buffering=0) as file:
                self._process.start("clip", limits, path.name, [file.fileno()])
            answer = self._process.ask(Message(Kind.OPEN), (Kind.FACTS,))
            facts = ClipFacts.model_validate_json(answer.body)
        except ValidationError as error:
            self.close()
            raise ClipError("decoder_crashed: the decoder answered nonsense") from error
        except DecoderLost as error:
            self.close()
            raise _clip_lost(error) from error
        except BaseException:
            self.close()
            raise
        self.width, self.height, self.fps = facts.width, facts.height, facts.fps
        self.frames, self.codec = min(facts.frames, limits.max_frames), facts.codec

    def __iter__(self) -> Iterator[ClipFrame]:
        try:
            for index in range(self._limits.max_frames + 1):
                answer = self._process.ask(Message(Kind.NEXT), (Kind.FRAME, Kind.DONE))
                self.damaged = answer.count
                if answer.kind is Kind.DONE:
                    return
                if answer.number != index or not self._in_time(answer.pts_us):
                    self._process.fail(f"frame {answer.number} at {answer.pts_us} us")
                image = self._process.picture(answer, self._limits.frame)
                yield ClipFrame(index, answer.pts_us, image)
        except DecoderLost as error:
            raise _clip_lost(error) from error

    def _in_time(self, pts_us: int) -> bool:
        return abs(pts_us) <= math.ceil(self._limits.max_seconds * 1_000_000)

    def close(self) -> None:
        """End the process, from any thread."""
        self._pool.end(self._process)


def _clip_lost(error: DecoderLost) -> ClipError:
    return ClipError(f"{error.reason}: {error}")
