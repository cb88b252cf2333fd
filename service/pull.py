"""The client of a stream that the server pulls from a URL: it reads frames and sends them to an
ordinary session, so that everything said about streams holds for these as well."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from service.decoder import ClipError, ClipFrame
from service.decoder_process import DecoderLost
from service.messages import StreamStart
from service.outbound import ForbiddenHostError, Target
from service.pictures import Limits
from service.queues import Closed, Queue
from service.services import Services
from service.source_feed import Feed, SourceError
from service.source_http import open_http
from service.source_reader import SourceReader
from service.source_rtsp import open_rtsp
from service.threads import in_thread
from service.wire import Flags, Frame, Kind

__all__ = ["Opened", "Pull"]

_log = logging.getLogger("resq.pulls")
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
_GOOD_SECONDS = 60.0  # of frames, after which a failure is a new one
_ALIVE = '{"type":"stream.update"}'


@dataclass(frozen=True, slots=True)
class Opened:
    """How the session answered `stream.start`. code: of the error; None if it started."""

    code: str | None = None
    message: str = ""
    field: str | None = None


class Pull:
    """A `Transport`. Connects when the session has started, again and again until it is closed.

    A source that is finite, a file over HTTP, ends the stream.

    Args:
        target: the URL.
        start: of the stream; its input is rgb.

    Attributes:
        opened: done when the session has started the stream or refused it.
    """

    trusted = True  # whoever asked for it had to be

    def __init__(self, services: Services, target: Target, start: StreamStart) -> None:
        self._services, self._target = services, target
        self._first: str | None = start.model_dump_json(exclude_none=True)
        config = services.config
        self._limits = Limits(config.max_frame_bytes, config.max_pixels)
        self._credits = asyncio.Semaphore(config.credits) if start.mode == "lossless" else None
        self._frames: Queue[tuple[ClipFrame, Flags]] = Queue(1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="resq-source")
        self._seq, self._ended = 0, False
        self._state, self._error = "connecting", ""
        self._next_try: float | None = None
        self._connections = 0
        self._pulling: asyncio.Task[None] | None = None
        self.opened: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()

    def describe(self) -> dict[str, Any]:
        """The source, its URL without userinfo and query."""
        return {
            "source": {
                "url": self._target.shown,
                "state": self._state,
                "connections": self._connections,
                "error": self._error or None,
                "next_try": self._next_try,
            }
        }

    async def receive(self) -> str | bytes:
        """`stream.start`, then frames, then `stream.end`; while nothing comes, signs of life."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._ended:
            return await self._sign_of_life()
        try:
            async with asyncio.timeout(self._services.config.idle_timeout / 3):
                return await self._frame()
        except TimeoutError:
            return _ALIVE
        except Closed:
            self._ended = True
            return '{"type":"stream.end"}'

    async def _sign_of_life(self) -> str:
        await asyncio.sleep(self._services.config.idle_timeout / 3)
        return _ALIVE

    async def _frame(self) -> bytes:
        if self._credits is not None:
            await self._credits.acquire()
        try:
            frame, flags = await self._frames.get()
        except BaseException:
            if self._credits is not None:
                self._credits.release()
            raise
        seq, self._seq = self._seq, self._seq + 1
        meta = {"shape": list(frame.image.shape[:2])}
        body = frame.image.tobytes()
        return Frame(Kind.RGB, seq, frame.pts_us, body, meta, flags).pack()

    async def send(self, data: str | bytes) -> None:
        """The session's answers: results and drops give credits back."""
        kind = "result"
        if isinstance(data, str):
            message = json.loads(data)
            kind = message["type"]
            if not self.opened.done() and kind in ("stream.started", "error"):
                found = [message.get(name) for name in ("code", "message", "field")]
                self.opened.set_result(Opened(*found) if kind == "error" else Opened())
        if kind == "stream.started":
            self._pulling = asyncio.create_task(self._pull())
        if kind in ("result", "drop") and self._credits is not None:
            self._credits.release()

    async def close(self, code: int, reason: str) -> None:
        """Stop the source: when this returns, its process and sockets are gone."""
        if not self.opened.done():
            self.opened.set_result(Opened(reason, "the stream was ended"))
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.wait([self._pulling])
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _pull(self) -> None:
        wait = _FIRST_WAIT
        while True:
            began = time.monotonic()
            self._state, self._next_try = "connecting", None
            try:
                if await self._read():
                    break
                self._error = "the source ended"
            except (SourceError, ForbiddenHostError, ClipError, DecoderLost) as error:
                self._error = str(error)
            except TimeoutError:
                self._error = "no connection in time"
            except OSError as error:
                self._error = f"it cannot be reached: {error.strerror or type(error).__name__}"
            if time.monotonic() - began > _GOOD_SECONDS:
                wait = _FIRST_WAIT
            pause = wait * random.uniform(0.5, 1.0)
            self._state, self._next_try = "retrying", round(time.time() + pause, 3)
            facts = {"why": self._error, "next_try_seconds": round(pause, 1)}
            _log.warning("source lost", extra={"facts": facts})
            await asyncio.sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT)
        self._state = "ended"
        self._frames.close()

    async def _read(self) -> bool:
        """One connection, to its end; whether that is the end of a finite source."""
        seconds = self._services.config.source_timeout
        async with asyncio.timeout(2 * seconds):  # redirects included
            feed = await self._connect(seconds)
        reader = SourceReader(self._services.decoders, self._limits, seconds)
        try:
            await in_thread(self._thread, reader.open, feed)
            feed.handed_over()
            self._connections += 1
            flags = Flags.DISCONT | Flags.ANCHOR if self._seq else Flags.NONE
            while (frame := await in_thread(self._thread, reader.next)) is not None:
                self._state = "running"
                await self._frames.put((frame, flags))
                flags = Flags.NONE
        except (ClipError, SourceError, DecoderLost) as error:
            raise SourceError(feed.problem or str(error)) from error
        finally:
            await asyncio.to_thread(reader.close)  # before what its process reads from
            await feed.close()
        if feed.problem is not None:
            raise SourceError(feed.problem)
        return feed.whole

    async def _connect(self, seconds: float) -> Feed:
        hosts = self._services.hosts
        if self._target.scheme == "rtsp":
            return await open_rtsp(self._target, hosts, seconds)
        return await open_http(self._target, hosts, seconds)
