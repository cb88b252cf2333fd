"""A client that keeps books: what it sent, what came back for each frame, and whether it adds up.

Its own count, not the server's: see `Ledger.problems`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, InvalidMessage
from websockets.typing import Subprotocol

from service.messages import StreamStart
from service.protocol import SUBPROTOCOL
from service.wire import Flags, Frame, Kind

__all__ = ["CountedStream", "Ledger", "Refused", "counted"]

KINDS = {"image": Kind.IMAGE, "h264": Kind.H264, "vp8": Kind.VP8, "rgb": Kind.RGB}
_MAX_ANSWER = 64 << 20
_START_SECONDS = 60.0


class Refused(Exception):  # noqa: N818 - an answer, and it is told apart by its code
    """The server closed the connection before `stream.started`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


@dataclass(slots=True)
class Ledger:
    """One stream's books. Times are seconds of `time.monotonic`.

    Attributes:
        sent: when each seq went, in order.
        results: when each came back; metas: its meta.
        drops: why a seq was dropped.
        errors: codes of the `error` messages.
        ended: the `stream.ended`, if it came.
        close: code and reason of the close frame; None where the connection broke off.
        wrong: what no server may do, in words.
    """

    sent: dict[int, float] = field(default_factory=dict)
    results: dict[int, float] = field(default_factory=dict)
    metas: dict[int, dict[str, Any]] = field(default_factory=dict)
    drops: dict[int, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    ended: dict[str, Any] | None = None
    close: tuple[int, str] | None = None
    wrong: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Frames with a result or a drop."""
        return len(self.results) + len(self.drops)

    @property
    def reasons(self) -> dict[str, int]:
        """How many frames were dropped for each reason."""
        return dict(Counter(self.drops.values()))

    def take(self, message: str | bytes) -> None:
        """Enter an answer of the server."""
        if isinstance(message, bytes):
            frame = Frame.unpack(message)
            self._settle(frame.seq, "a result")
            self.results[frame.seq], self.metas[frame.seq] = time.monotonic(), frame.meta
            return
        value = json.loads(message)
        if value["type"] == "drop":
            self._settle(value["seq"], "a drop")
            self.drops[value["seq"]] = value["reason"]
        elif value["type"] == "error":
            self.errors.append(value["code"])
        elif value["type"] == "stream.ended":
            self.ended = value

    def _settle(self, seq: int, answer: str) -> None:
        if seq not in self.sent:
            self.wrong.append(f"{answer} for frame {seq}, which was not sent")
        if seq in self.results or seq in self.drops:
            self.wrong.append(f"{answer} for frame {seq}, which was answered before")
        if self.ended is not None:
            self.wrong.append(f"{answer} for frame {seq} after stream.ended")

    def problems(self, whole: bool = False) -> list[str]:
        """What does not add up, in words.

        With `stream.ended`, the frames that the server says it received are the first ones that
        were sent, each of them answered once, and its totals are those of the answers. Without it
        no frame was answered twice, or without having been sent.

        whole: this side ended the stream, so that every frame must have been received.
        """
        found = list(self.wrong)
        if self.ended is None:
            return [*found, "stream.ended did not come"] if whole else found
        received = self.ended["received"]
        wanted = set(list(self.sent)[:received])
        lost = wanted - set(self.results) - set(self.drops)
        if lost:
            found.append(f"no answer for {len(lost)} frames, the first is {min(lost)}")
        if self.answered != received or received > len(self.sent):
            found.append(f"{self.answered} answers, {received} received, {len(self.sent)} sent")
        if whole and received != len(self.sent):
            found.append(f"{len(self.sent)} sent, {received} received")
        totals = (self.ended["results"], self.ended["drops"], self.ended["drop_reasons"])
        if totals != (len(self.results), len(self.drops), self.reasons):
            found.append(
                f"the server counts {totals}; "
                f"{(len(self.results), len(self.drops), self.reasons)} came"
            )
        return found


class CountedStream:
    """An open stream and its ledger. Lossless streams wait for credits in `send`."""

    def __init__(self, connection: ClientConnection, started: dict[str, Any]) -> None:
        self.started, self.ledger = started, Ledger()
        self.closed = asyncio.Event()
        self._connection = connection
        self._kind = KINDS[started["input"]]
        lossless = started["mode"] == "lossless"
        self._credits = asyncio.Semaphore(started["credits"]) if lossless else None
        self._answered = asyncio.Event()
        self._seq = 0

    async def send(
        self, body: bytes, meta: dict[str, Any] | None = None, flags: Flags = Flags.NONE
    ) -> None:
        """Send a frame. ConnectionClosed if there is no connection any more."""
        if self._credits is not None:
            await self._credits.acquire()
        seq, self._seq = self._seq, self._seq + 1
        self.ledger.sent[seq] = time.monotonic()
        await self._connection.send(Frame(self._kind, seq, seq, body, meta or {}, flags).pack())

    async def say(self, message: dict[str, Any]) -> None:
        """Send a text message."""
        await self._connection.send(json.dumps(message))

    async def listen(self) -> None:
        """Enter answers until the connection is closed."""
        with contextlib.suppress(ConnectionClosed):
            async for message in self._connection:
                before = self.ledger.answered
                self.ledger.take(message)
                if self.ledger.answered > before:
                    self._answered.set()
                    if self._credits is not None:
                        self._credits.release()
        close = self._connection.close_code, self._connection.close_reason
        if close[0] is not None and close[0] != 1006:
            self.ledger.close = close[0], close[1] or ""
        self.closed.set()
        self._answered.set()
        if self._credits is not None:  # whoever waits for one learns it from `send`
            self._credits.release()

    async def answered(self, count: int, seconds: float = 60.0) -> None:
        """Wait until so many frames are answered. AssertionError if that does not come."""
        async with asyncio.timeout(seconds):
            while self.ledger.answered < count:
                assert not self.closed.is_set(), f"closed: {self.ledger.close}"
                self._answered.clear()
                await self._answered.wait()

    async def end(self, seconds: float = 60.0) -> Ledger:
        """Ask for the rest, wait for the close; the ledger."""
        with contextlib.suppress(ConnectionClosed):
            await self.say({"type": "stream.end"})
        async with asyncio.timeout(seconds):
            await self.closed.wait()
        return self.ledger

    def stop_reading(self) -> None:
        """Read nothing any more, as a client that hangs."""
        self._connection.transport.pause_reading()

    def vanish(self) -> None:
        """Be gone with a TCP reset and no word."""
        raw = self._connection.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.transport.abort()


@asynccontextmanager
async def counted(address: str, options: StreamStart) -> AsyncIterator[CountedStream]:
    """Open a stream; its answers are entered in the background. Its end breaks the connection.

    Raises:
        Refused: the server closed before `stream.started`.
        OSError: nothing answers.
    """
    url = address.replace("http", "ws", 1) + "/v1/streams"
    try:
        async with asyncio.timeout(_START_SECONDS):
            connection = await connect_websocket(
                url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                max_size=_MAX_ANSWER,
                ping_interval=None,
            )
    except InvalidMessage as error:
        raise ConnectionResetError(str(error)) from error
    listening: asyncio.Task[None] | None = None
    try:
        stream = CountedStream(connection, await _start(connection, options))
        listening = asyncio.create_task(stream.listen())
        yield stream
    finally:
        if connection.transport is not None:
            connection.transport.abort()
        if listening is not None:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening


async def _start(connection: ClientConnection, options: StreamStart) -> dict[str, Any]:
    try:
        await connection.send(options.model_dump_json(exclude_none=True))
        async with asyncio.timeout(_START_SECONDS):
            while True:
                first: dict[str, Any] = json.loads(await connection.recv())
                if first["type"] == "stream.started":
                    return first
    except ConnectionClosed as error:
        if error.rcvd is None:
            raise ConnectionResetError("the connection broke off") from error
        raise Refused(error.rcvd.code, error.rcvd.reason) from error
