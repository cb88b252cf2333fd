"""The client of programs without asyncio: the async one, in an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

from service.client.address import DEFAULT_URL
from service.client.aio import AsyncClient
from service.client.clips import AsyncClip, AsyncClips, ClipResult, Progress
from service.client.models import ClipInfo, ModelInfo
from service.client.options import ClipOptions, StreamChanges, StreamOptions
from service.client.results import FrameResult
from service.client.sources import Source, SourceLike
from service.client.streaming import AsyncStream
from service.closing import Closing
from service.messages import Drop, Ended, Started

__all__ = ["Client", "Clip", "Clips", "Stream"]

T = TypeVar("T")


class _Loop:
    """An event loop in a daemon thread, for callers who wait."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="resq-client", daemon=True
        )
        self._thread.start()

    @property
    def closed(self) -> bool:
        """`close` was called."""
        return self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns or raises; an interrupt cancels it."""
        if self.closed:
            work.close()
            raise RuntimeError("the client is closed")
        over = threading.Event()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(lambda _: over.set())

        self._loop.call_soon_threadsafe(start)
        try:
            over.wait()
        except BaseException:  # an interrupt; nothing of it goes on behind the caller's back
            self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            over.wait()
            raise
        return tasks[0].result()

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """An async generator's items; it is closed with the iteration."""
        try:
            while True:
                try:
                    yield self.run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            if not self.closed:
                self.run(_close(items))

    def close(self) -> None:
        """Stop the thread."""
        self.run(self._loop.shutdown_asyncgens())
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Client(Closing):
    """A ResQ server, for programs without asyncio. Use as a context manager; several threads may
    use one. Arguments, attributes and errors are those of `AsyncClient`.
    """

    def __init__(
        self, url: str = DEFAULT_URL, key: str | None = None, timeout: float = 30.0
    ) -> None:
        self._client = AsyncClient(url, key, timeout)
        self._loop = _Loop()
        self.clips = Clips(self._loop, self._client.clips)

    def stream(self, source: SourceLike, **options: Unpack[StreamOptions]) -> Stream:
        """See `AsyncClient.stream`."""
        return Stream(self._loop, self._client.stream(source, **options))

    def models(self) -> tuple[ModelInfo, ...]:
        """What the server has to offer."""
        return self._loop.run(self._client.models())

    def version(self) -> str:
        """Of the server's software."""
        return self._loop.run(self._client.version())

    def close(self) -> None:
        """End all streams, and close the connections; more calls do nothing."""
        if self._loop.closed:
            return
        try:
            self._loop.run(self._client.close())
        finally:
            self._loop.close()


class Stream(Closing):
    """An `AsyncStream` for `for` and `with`; breaking out of the loop ends it."""

    def __init__(self, loop: _Loop, stream: AsyncStream) -> None:
        self._loop, self._stream = loop, stream

    @property
    def started(self) -> Started:
        """The options in force, class names and palette. RuntimeError before it is open."""
        return self._stream.started

    @property
    def source(self) -> Source:
        """What is streamed. RuntimeError before it is open."""
        return self._stream.source

    @property
    def drops(self) -> Counter[str]:
        """Frames without a result so far, by reason."""
        return self._stream.drops

    @property
    def recent_drops(self) -> deque[Drop]:
        """The last ones that the server answered by a drop, at most 256."""
        return self._stream.recent_drops

    @property
    def ended(self) -> Ended | None:
        """The server's totals, after the last result; None before."""
        return self._stream.ended

    def update(self, **changes: Unpack[StreamChanges]) -> None:
        """See `AsyncStream.update`."""
        self._loop.run(self._stream.update(**changes))

    def close(self) -> None:
        """End the stream at once, and its source; more calls do nothing."""
        self._loop.run(self._stream.close())

    def __iter__(self) -> Iterator[FrameResult]:
        return self._loop.iterate(aiter(self._stream))

    def __enter__(self) -> Self:
        self._loop.run(self._stream.__aenter__())
        return self


class Clips:
    """The jobs of a server; see `AsyncClips`."""

    def __init__(self, loop: _Loop, clips: AsyncClips) -> None:
        self._loop, self._clips = loop, clips

    def upload(
        self, path: str | Path, progress: Progress | None = None, **options: Unpack[ClipOptions]
    ) -> Clip:
        """See `AsyncClips.upload`."""
        return Clip(self._loop, self._loop.run(self._clips.upload(path, progress, **options)))

    def list(self) -> tuple[Clip, ...]:
        """All jobs, the oldest first."""
        return tuple(Clip(self._loop, clip) for clip in self._loop.run(self._clips.list()))

    def get(self, name: str) -> Clip:
        """The job of an id. Raises RemoteError where there is none."""
        return Clip(self._loop, self._loop.run(self._clips.get(name)))


class Clip:
    """A job on the server; see `AsyncClip`."""

    def __init__(self, loop: _Loop, clip: AsyncClip) -> None:
        self._loop, self._clip = loop, clip

    @property
    def id(self) -> str:
        """Its name, for `Clips.get`."""
        return self._clip.id

    @property
    def info(self) -> ClipInfo:
        """Its state as it was last heard of."""
        return self._clip.info

    def refresh(self) -> ClipInfo:
        """Its state now."""
        return self._loop.run(self._clip.refresh())

    def results(self, follow: bool = True) -> Iterator[ClipResult]:
        """See `AsyncClip.results`."""
        return self._loop.iterate(self._clip.results(follow))

    def wait(self) -> ClipInfo:
        """Its state once it is done."""
        return self._loop.run(self._clip.wait())

    def report(self) -> dict[str, Any]:
        """Totals of the whole clip, once it is done."""
        return self._loop.run(self._clip.report())

    def download(self, path: str | Path, progress: Progress | None = None) -> Path:
        """See `AsyncClip.download`."""
        return self._loop.run(self._clip.download(path, progress))

    def cancel(self) -> None:
        """Stop it where it still runs, and remove everything of it from the server."""
        self._loop.run(self._clip.cancel())


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def _close(items: AsyncIterator[Any]) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()
