"""One stream from a source to its results, with bounded memory."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Unpack

import numpy as np
from PIL import Image

from service.client.connection import ClientStream, Result, connect
from service.client.errors import OutcomeError, RemoteError
from service.client.options import (
    Encoding,
    StreamChanges,
    StreamOptions,
    stream_start,
    stream_update,
)
from service.client.reader import SourceReader
from service.client.results import FrameResult
from service.client.sources import Source, SourceLike
from service.decoder import ClipFrame
from service.messages import Drop, Ended, ErrorMessage, Started
from service.pictures import Picture
from service.queues import Closed, Queue

__all__ = ["AsyncStream", "encode_picture"]

_log = logging.getLogger("resq.client")
_PATIENCE = 30.0
_QUALITY = 92
_FRESH = 2  # results of a live stream that wait to be read
_DROPS = 256


class AsyncStream:
    """A stream, to be iterated once: `async for result in client.stream(...)`.

    A file waits for the reader: nothing is lost, and no more frames and results are held than the
    server gives credits. A live source does not: what a slow server or reader has no time for is
    passed over, the oldest first, and counted in `drops`: under the server's reason, as `skipped`
    (never sent) or as `unread`. A connection that breaks is taken up again; frames that were on
    their way are then dropped as `disconnected`.

    Attributes:
        drops: frames without a result so far, by reason.
        recent_drops: the last ones that the server answered by a drop, at most 256.
        ended: the server's totals, after the last result; None before.
    """

    def __init__(
        self, url: str, key: str | None, source: SourceLike, **options: Unpack[StreamOptions]
    ) -> None:
        """Raises OptionError for bad options, before anything is opened."""
        self._url, self._key, self._what, self._options = url, key, source, options
        stream_start(options, live=False)
        self._encoding: Encoding = options.get("encoding", "jpeg")
        self._counts: Counter[str] = Counter()
        self.recent_drops: deque[Drop] = deque(maxlen=_DROPS)
        self.ended: Ended | None = None
        self._source: Source | None = None
        self._wire: ClientStream | None = None
        self._reader: SourceReader | None = None
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sent: dict[int, tuple[Picture, float]] = {}
        self._failure: Exception | None = None

    @property
    def started(self) -> Started:
        """The options in force, class names and palette. RuntimeError before it is open."""
        return self._opened.started

    @property
    def source(self) -> Source:
        """What is streamed. RuntimeError before it is open."""
        if self._source is None:
            raise RuntimeError("the stream is not open; expected `with` or an iteration first")
        return self._source

    @property
    def drops(self) -> Counter[str]:
        """Frames without a result so far, by reason."""
        skipped = self._reader.skipped if self._reader is not None else 0
        return self._counts + Counter(skipped=skipped)

    @property
    def _opened(self) -> ClientStream:
        if self._wire is None:
            raise RuntimeError("the stream is not open; expected `with` or an iteration first")
        return self._wire

    async def open(self) -> None:
        """Open the source, then the stream; more calls do nothing.

        Raises:
            ClipError, InputError: the source cannot be read.
            UnreachableError, RemoteError: no server is there, or it refuses.
            RuntimeError: it was closed.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        if self._task.cancelled():
            raise RuntimeError("the stream was closed; expected a new one")
        await self._ready.wait()
        if self._wire is None:
            await self._task

    async def update(self, **changes: Unpack[StreamChanges]) -> None:
        """Change options from the next frame on. What the server refuses is logged, and changes
        nothing. Raises OptionError for a value out of range."""
        await self._opened.update(stream_update(changes))

    async def close(self) -> None:
        """End the stream at once, and its source; more calls do nothing."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> AsyncStream:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[FrameResult]:
        """Results in order. Raises as `open`; what the source raises, after the last result of
        what it gave; OutcomeError where the server ends the stream."""
        async with self:
            assert self._task is not None
            while True:
                try:
                    result = await self._results.get()
                except Closed:
                    break
                if not self.source.live:
                    self._window.release()
                yield result
            await self._task

    async def _run(self) -> None:
        reader = self._reader = SourceReader(self._what, self._options.get("live"))
        try:
            self._source = await reader.opened()
            start = stream_start(self._options, self._source.live)
            patience = self._options.get("patience", _PATIENCE)
            async with connect(self._url, start, self._key, patience) as wire:
                self._window = asyncio.Semaphore(wire.started.credits)
                size = _FRESH if self._source.live else wire.started.credits
                self._results: Queue[FrameResult] = Queue(size)
                self._wire = wire
                self._ready.set()
                await self._converse(wire, reader)
        finally:
            reader.close()
            if self._wire is not None:
                self._results.close()
            self._ready.set()
        if self._failure is not None:
            raise self._failure
        if self.ended is not None and self.ended.reason != "ended":
            raise OutcomeError(f"the server ended the stream: {self.ended.reason}")

    async def _converse(self, wire: ClientStream, reader: SourceReader) -> None:
        feeding = asyncio.create_task(self._feed(wire, reader))
        listening = asyncio.create_task(self._listen(wire))
        both = (feeding, listening)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and not isinstance(feeding.exception(), RemoteError):
                feeding.result()
            await listening  # where the connection is gone, the server's last words say why
            if feeding.done():
                feeding.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _feed(self, wire: ClientStream, reader: SourceReader) -> None:
        while True:
            await self._window.acquire()
            try:
                frame = await reader.next()
            except Exception as error:  # whatever the source raises; results go before it
                self._failure = error
                break
            if frame is None:
                break
            await self._send(wire, frame)
        await wire.end()

    async def _send(self, wire: ClientStream, frame: ClipFrame) -> None:
        taken = time.perf_counter()
        data = await asyncio.to_thread(encode_picture, frame.image, self._encoding)
        self._sent[wire.next_seq] = frame.image, taken
        shape = frame.image.shape[:2] if self._encoding == "rgb" else None
        await wire.send(data, frame.pts_us, shape)

    async def _listen(self, wire: ClientStream) -> None:
        async for answer in wire:
            if isinstance(answer, Result):
                self._take(wire, answer)
            elif isinstance(answer, Drop):
                self._sent.pop(answer.seq, None)
                self._counts[answer.reason] += 1
                self.recent_drops.append(answer)
                self._window.release()
            elif isinstance(answer, Ended):
                self.ended = answer
            elif isinstance(answer, ErrorMessage):
                _log.warning("the server refused a change: %s", answer.message)

    def _take(self, wire: ClientStream, answer: Result) -> None:
        meta = answer.meta
        image, taken = self._sent.pop(meta.seq)
        points = None if meta.keypoints is None else np.array(meta.keypoints, np.float32)
        latency = 1000 * (time.perf_counter() - taken)
        result = FrameResult(
            image, answer.mask, points, answer.bit_map, latency, meta, wire.started
        )
        if self._results.push(result) is not None:
            self._counts["unread"] += 1
        if self.source.live:
            self._window.release()


def encode_picture(image: Picture, encoding: Encoding) -> bytes:
    """A picture uint8 [H, W, 3] RGB as it travels."""
    if encoding == "rgb":
        return image.tobytes()
    out = io.BytesIO()
    if encoding == "png":
        Image.fromarray(image).save(out, "PNG", compress_level=1)
    else:
        Image.fromarray(image).save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
