"""Results of one stream for others than its client: sinks, and whoever follows over REST.

Nobody here slows the stream: what does not fit their bounded queues is lost, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from service.outbox import Result

__all__ = ["Lines", "Sink", "SinkError", "Taps", "record"]

_FOLLOWED_LINES, _FOLLOWED_BYTES = 16, 4 << 20
_SINK_LINES, _SINK_BYTES = 1000, 16 << 20
_TRIES = 8
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between tries
_LAST_SECONDS = 1.0  # to deliver what waits when the stream has ended, and to say good-bye


class SinkError(Exception):
    """A batch was not delivered; `reason` is short and stable, the message holds no secrets."""

    def __init__(self, reason: str, message: str, again: bool) -> None:
        super().__init__(message)
        self.reason, self.again = reason, again


class Target(Protocol):
    """Where a sink delivers to.

    Attributes:
        kind: as in the options.
        shown: where it is, without secrets.
        batch: lines that go at once, at most.
    """

    kind: str
    shown: str
    batch: int

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Bring lines there. A failed call is repeated with the same lines, if at all.

        Raises:
            SinkError: that did not work.
        """
        ...

    async def close(self) -> None:
        """Release what it holds."""
        ...


class Lines:
    """A queue bounded in lines and bytes; the newest displace the oldest."""

    def __init__(self, lines: int, size: int) -> None:
        self._most, self._room = lines, size
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._ready = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._lines)

    def push(self, line: bytes) -> int:
        """Append; returns how many had to go."""
        self._lines.append(line)
        self._size += len(line)
        lost = 0
        while len(self._lines) > self._most or self._size > self._room:
            self._size -= len(self._lines.popleft())
            lost += 1
        self._ready.set()
        return lost

    async def get(self, most: int = 1) -> list[bytes]:
        """The oldest lines, at least one; none after `close` when all are gone."""
        while not self._lines:
            if self._closed:
                return []
            self._ready.clear()
            await self._ready.wait()
        taken = [self._lines.popleft() for _ in range(min(most, len(self._lines)))]
        self._size -= sum(map(len, taken))
        return taken

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._ready.set()


class Sink:
    """Delivers lines to a target from a queue of its own.

    Args:
        target: `close` closes it.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lines = Lines(_SINK_LINES, _SINK_BYTES)
        self._delivered, self._sending = 0, 0
        self._lost: Counter[str] = Counter()
        self._error: str | None = None
        self._task = asyncio.create_task(self._run())

    def describe(self) -> dict[str, Any]:
        """Facts for people and programs, without secrets."""
        return {
            "kind": self._target.kind,
            "target": self._target.shown,
            "delivered": self._delivered,
            "waiting": len(self._lines) + self._sending,
            "lost": dict(self._lost),
            "error": self._error,
        }

    def take(self, line: bytes) -> None:
        """A result; never waits."""
        self._count("queue_full", self._lines.push(line))

    async def close(self) -> None:
        """Deliver what waits, if that is quick, and let go."""
        self._lines.close()
        await asyncio.wait([self._task], timeout=_LAST_SECONDS)
        self._task.cancel()
        await asyncio.wait([self._task])
        self._count("ended", len(self._lines) + self._sending)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self._target.close()

    async def _run(self) -> None:
        while batch := await self._lines.get(self._target.batch):
            self._sending = len(batch)
            try:
                await self._persist(batch)
                self._delivered += len(batch)
                self._error = None
            except SinkError as error:
                self._count(error.reason, len(batch))
            self._sending = 0

    async def _persist(self, batch: list[bytes]) -> None:
        wait = _FIRST_WAIT
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                await self._target.deliver(batch)
                return
            except SinkError as error:
                self._error = str(error)
                if not error.again or not tries_left:
                    raise
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _count(self, reason: str, lost: int) -> None:
        if lost:
            self._lost[reason] += lost


class Taps:
    """All of one stream. The event loop owns it."""

    def __init__(self, stream: str, sinks: Sequence[Sink]) -> None:
        self._stream, self._sinks = stream, sinks
        self._followers: set[Lines] = set()
        self._closed = False

    def take(self, result: Result) -> None:
        """A result is ready; never waits."""
        if not self._sinks and not self._followers:
            return
        line = record(self._stream, result)
        for sink in self._sinks:
            sink.take(line)
        for follower in self._followers:
            follower.push(line)

    @contextmanager
    def follow(self) -> Iterator[Lines]:
        """Results from now on, the newest where the reader is slow; they end with the stream."""
        lines = Lines(_FOLLOWED_LINES, _FOLLOWED_BYTES)
        if self._closed:
            lines.close()
        self._followers.add(lines)
        try:
            yield lines
        finally:
            self._followers.discard(lines)

    def describe(self) -> list[dict[str, Any]]:
        """The sinks."""
        return [sink.describe() for sink in self._sinks]

    async def close(self) -> None:
        """The stream has ended."""
        self._closed = True
        for follower in self._followers:
            follower.close()
        await asyncio.gather(*(sink.close() for sink in self._sinks))


def record(stream: str, result: Result) -> bytes:
    """A result as a line of NDJSON: its stream, its meta, and a mask that is JSON already."""
    meta = result.meta.model_dump(mode="json", exclude={"blobs"})
    line = json.dumps({"stream": stream, **meta}, separators=(",", ":")).encode()
    for blob, data in zip(result.meta.blobs, result.blobs, strict=True):
        if blob.name == "mask" and blob.format == "zlib-json":
            line = b'%s,"mask":%s}' % (line[:-1], zlib.decompress(data))
    return line + b"\n"
