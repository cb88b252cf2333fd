"""A source, read in a thread of its own for an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing, suppress

from service.client.sources import Source, SourceLike, open_source
from service.decoder import ClipFrame
from service.queues import Closed, Queue

__all__ = ["SourceReader"]

_AHEAD = 2  # frames that are decoded before anybody asks


class SourceReader:
    """Opens a source, reads it and closes it, all in one thread, which may wait for a camera or
    for the iterator of somebody else; the event loop never does.

    Of a live source only the newest frame waits; another one is read as frames are taken.

    Attributes:
        skipped: frames of a live source that a newer one took the place of.
    """

    def __init__(self, what: SourceLike, live: bool | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[Source] = self._loop.create_future()
        self._frames: Queue[ClipFrame] = Queue(_AHEAD)
        self._room = threading.Semaphore(_AHEAD)
        self._lock = threading.Lock()
        self._newest: ClipFrame | None = None  # of a live source, on its way to the loop
        self._failure: Exception | None = None
        self._closed = False
        self.skipped = 0
        # a daemon: a camera may hold it for long
        threading.Thread(
            target=self._read, args=(what, live), name="resq-source", daemon=True
        ).start()

    async def opened(self) -> Source:
        """What is read. Raises as `open_source`."""
        return await asyncio.shield(self._opened)

    async def next(self) -> ClipFrame | None:
        """The next frame; None at the end. Raises what the source raised."""
        frame: ClipFrame | None = None
        with suppress(Closed):
            frame = await self._frames.get()
        if frame is None and self._failure is not None:
            raise self._failure  # with its own causes
        self._room.release()
        return frame

    def close(self) -> None:
        """Read no further."""
        self._closed = True
        self._frames.close()
        self._room.release()
        self._opened.cancel()

    def _read(self, what: SourceLike, live: bool | None) -> None:
        failure: Exception | None = None
        try:
            with closing(open_source(what, live)) as source:
                self._tell(self._begin, source)
                for frame in source.frames:
                    if source.live:
                        self._replace(frame)
                    else:
                        self._room.acquire()
                        self._tell(self._frames.offer, frame)
                    if self._closed:
                        break
        except Exception as error:  # of a camera, or of whoever makes the pictures
            failure = error
        self._tell(self._end, failure)

    def _replace(self, frame: ClipFrame) -> None:
        """Hand on a live frame; one at a time, or a fast source would fill the loop with them."""
        with self._lock:
            waiting, self._newest = self._newest is not None, frame
        if waiting:
            self.skipped += 1
        else:
            self._tell(self._take_newest)

    def _take_newest(self) -> None:
        with self._lock:
            frame, self._newest = self._newest, None
        if frame is not None and self._frames.push(frame) is not None:
            self.skipped += 1

    def _tell(self, call: Callable[..., object], *values: object) -> None:
        """Have the loop call something."""
        try:
            self._loop.call_soon_threadsafe(call, *values)
        except RuntimeError:  # it is over
            self._closed = True

    def _begin(self, source: Source) -> None:
        if source.live:
            self._frames = Queue(1)
        if self._closed:
            self._frames.close()
        if not self._opened.done():
            self._opened.set_result(source)

    def _end(self, failure: Exception | None) -> None:
        self._failure = failure
        if not self._opened.done():
            assert failure is not None
            self._opened.set_exception(failure)
            self._opened.exception()  # seen, whether or not somebody asks
        self._frames.close()
