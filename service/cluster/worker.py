"""A worker: the engine, the queue and the decoders of a server, for streams of gateways elsewhere.

It knows nothing of Ray. One event loop owns it, and one gateway each of its streams.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from service.admission import probe
from service.cluster.wire import Load, Opened, Raised, Reply
from service.costs import Busy
from service.decoder import Decoded
from service.decoder_process import DecoderPool, StreamDecoder
from service.engine import (
    Answer,
    Ask,
    Engine,
    EngineStream,
    FrameError,
    Kept,
    Priority,
    StepOutput,
    StreamSpec,
    WorkerLost,
)
from service.heap import keep_trimmed
from service.messages import StreamUpdate
from service.pictures import Limits, Picture
from service.scheduler import Lane, Scheduler
from service.threads import in_thread

__all__ = ["Worker", "WorkerSetup"]

T = TypeVar("T")
_PATIENCE_SECONDS = 0.02  # a live stream's next frame is a way to its gateway and back behind
_LEASE_SECONDS = 15.0  # a stream whose gateway is gone, and that nobody used for so long, ends


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What every worker is made with.

    Attributes:
        engine: makes the engine, in the worker's process.
        usual: what most streams ask for; a worker has run it before it takes any.
        threads: frames that are inferred at the same time.
        decoders, decoder_timeout, decoder_memory: as the server's settings.
    """

    engine: Callable[[], Engine]
    usual: StreamSpec
    threads: int
    decoders: int
    decoder_timeout: float
    decoder_memory: int


@dataclass(slots=True)
class _Decoding:
    """The decoder of a stream's present connection, and the pictures that wait for their turn."""

    number: int
    decoder: StreamDecoder
    thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="resq-decode")
    )
    pictures: dict[int, Picture] = field(default_factory=dict)

    async def close(self) -> None:
        await asyncio.to_thread(self.decoder.close)
        self.thread.shutdown(wait=False, cancel_futures=True)
        self.pictures.clear()


@dataclass(slots=True)
class _Held:
    """A stream of a gateway."""

    gateway: str
    stream: EngineStream
    lane: Lane
    used: float
    busy: Busy = field(default_factory=Busy)
    decoding: _Decoding | None = None


def _meant(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T | Raised]]:
    """Errors that are meant for the caller are values: they cross whole, and are logged nowhere."""

    @functools.wraps(method)
    async def call(*args: Any, **named: Any) -> T | Raised:
        try:
            return await method(*args, **named)
        except Exception as error:
            raised = Raised.of(error)
            if raised is None:
                raise
            return raised

    return call


class Worker:
    """Streams by key. A key is used once: what a gateway gave up for lost can mix with nothing.

    Args:
        setup: see `WorkerSetup`.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup, self._engine = setup, setup.engine()
        probe(self._engine, setup.usual)
        self._scheduler = Scheduler(setup.threads, _PATIENCE_SECONDS)
        self._decoders = DecoderPool(setup.decoders, setup.decoder_timeout, setup.decoder_memory)
        self._decoders.fill()
        self._streams: dict[str, _Held] = {}
        self._trimming: asyncio.Task[None] | None = None

    async def beat(self, gateways: Collection[str] | None) -> Load:
        """How it stands; streams of other gateways than these end, None where nobody knows which
        there are. Called all the time.
        """
        if self._trimming is None:
            self._trimming = asyncio.create_task(keep_trimmed())
        now = time.perf_counter()
        for key, held in list(self._streams.items()):
            gone = gateways is not None and held.gateway not in gateways
            if gone and now - held.used > _LEASE_SECONDS:
                await self.close(key)
        return Load(
            self._setup.threads,
            sum(held.busy.measured(now) for held in self._streams.values()),
            len(self._streams),
            socket.gethostname(),
            os.getpid(),
        )

    @_meant
    async def open(self, key: str, gateway: str, spec: StreamSpec) -> Opened:
        """Open a stream. EngineError as the engine."""
        lane = self._scheduler.lane()
        stream = await lane.run(lambda: self._engine.open(spec))
        self._streams[key] = _Held(gateway, stream, lane, time.perf_counter())
        return Opened(stream.spec, self._engine.serving(spec.model))

    @_meant
    async def answer(self, key: str, image: Picture | Kept, ask: Ask) -> Reply:
        """A live frame, by its seq where this worker decoded it, or as it came. FrameError as the
        engine, DecodeError, DecoderLost.
        """
        held, came = self._held(key), time.perf_counter()
        picture = await self._picture(held, image)
        decode = time.perf_counter() - came

        def work() -> Answer | None:
            if ask.within is not None and time.perf_counter() - came > ask.within:
                return None
            return held.stream.answer(picture, ask)

        answer = await held.lane.run(work, ask.priority)
        if answer is not None:
            held.busy.note(time.perf_counter(), answer.infer + answer.encode)
            # they are among the blobs, a fiftieth of the size
            out = replace(answer.out, ids=None, bit_map=None)
            answer = replace(answer, out=out, decode=decode)
        return self._reply(held, answer)

    @_meant
    async def step(
        self, key: str, image: Picture, bit_map: bool, layers: bool, anchor: str | None
    ) -> Reply:
        """A frame of a clip. FrameError as the engine."""
        held = self._held(key)

        def work() -> tuple[StepOutput, float]:
            start = time.perf_counter()
            return held.stream.step(image, bit_map, layers, anchor), time.perf_counter() - start

        out, seconds = await held.lane.run(work, Priority.CLIP)
        held.busy.note(time.perf_counter(), seconds)
        return self._reply(held, out)

    @_meant
    async def update(self, key: str, changes: StreamUpdate) -> Reply:
        """Change options. EngineError as the engine; a part of them may be in force then."""
        held = self._held(key)
        await held.lane.run(lambda: held.stream.update(changes), Priority.RESERVED)
        return self._reply(held, None, held.stream.spec)

    @_meant
    async def options(self, key: str) -> Reply:
        """The options in force."""
        held = self._held(key)
        return self._reply(held, None, held.stream.spec)

    @_meant
    async def start_decoder(
        self, key: str, number: int, kind: Literal["image", "h264", "vp8"], limits: Limits
    ) -> None:
        """Give the stream a decoder of this number instead of any it has. DecoderLost."""
        held = self._held(key)
        await self._end_decoding(held)
        held.decoding = decoding = _Decoding(number, StreamDecoder(self._decoders, kind, limits))
        await in_thread(decoding.thread, decoding.decoder.open)

    @_meant
    async def decode(
        self, key: str, number: int, data: bytes | None, seq: int, wanted: Collection[int]
    ) -> tuple[int, ...]:
        """Pictures that a frame gave, None what the codec still held back, by their seqs; of the
        earlier ones those stay that are wanted. DecodeError, DecoderLost.
        """
        decoding = self._decoding(self._held(key), number)
        for old in [seq for seq in decoding.pictures if seq not in wanted]:
            decoding.pictures.pop(old, None)
        found = await in_thread(decoding.thread, _decode, decoding.decoder, data, seq)
        decoding.pictures.update((picture.seq, picture.image) for picture in found)
        return tuple(picture.seq for picture in found)

    async def end_decoder(self, key: str, number: int) -> None:
        """End the decoder of this number, if it is still there."""
        held = self._streams.get(key)
        if held is not None and held.decoding is not None and held.decoding.number == number:
            await self._end_decoding(held)

    async def close(self, key: str) -> None:
        """End a stream; more calls do nothing."""
        held = self._streams.pop(key, None)
        if held is not None:
            await self._end_decoding(held)
            await held.lane.idle()
            held.stream.close()

    def _held(self, key: str) -> _Held:
        held = self._streams.get(key)
        if held is None:
            raise WorkerLost("the worker was started anew and knows nothing of the stream")
        held.used = time.perf_counter()
        return held

    def _reply(self, held: _Held, value: Any, spec: StreamSpec | None = None) -> Reply:
        held.used = time.perf_counter()
        return Reply(value, spec, held.stream.totals, held.stream.nbytes)

    def _decoding(self, held: _Held, number: int) -> _Decoding:
        if held.decoding is None or held.decoding.number != number:
            raise WorkerLost("the stream has another decoder by now")
        return held.decoding

    async def _picture(self, held: _Held, image: Picture | Kept) -> Picture:
        if not isinstance(image, Kept):
            return image
        if image.data is not None:
            decoding = self._decoding(held, image.decoder)
            decode = decoding.decoder.decode
            [found] = await in_thread(decoding.thread, decode, image.data, image.seq)
            return found.image
        picture = None if held.decoding is None else held.decoding.pictures.pop(image.seq, None)
        if picture is None:
            raise FrameError(f"the picture of frame {image.seq} is gone")
        return picture

    async def _end_decoding(self, held: _Held) -> None:
        decoding, held.decoding = held.decoding, None
        if decoding is not None:
            await decoding.close()


def _decode(decoder: StreamDecoder, data: bytes | None, seq: int) -> list[Decoded]:
    return decoder.flush() if data is None else decoder.decode(data, seq)
