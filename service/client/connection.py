"""The WebSocket protocol `resq.v1` from the client's side: bytes of frames out, answers in.

>>> start = StreamStart(mode="lossless")
>>> async with connect("http://127.0.0.1:8000", start) as stream:  # doctest: +SKIP
...     await stream.send(jpeg)
...     answer = await stream.receive()
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode
from websockets.typing import Subprotocol

from service.client.address import Address
from service.client.errors import KeyRefusedError, RemoteError, UnreachableError
from service.masks import unpack_bits, unpack_ids
from service.messages import (
    Drop,
    Ended,
    ErrorMessage,
    Reset,
    ResultMeta,
    Started,
    Stats,
    StreamStart,
    StreamUpdate,
)
from service.protocol import SUBPROTOCOL, Close
from service.wire import Frame, Kind

__all__ = ["Answer", "ClientStream", "Result", "connect"]

_MAX_ANSWER = 64 << 20
_KINDS = {"image": Kind.IMAGE, "h264": Kind.H264, "vp8": Kind.VP8, "rgb": Kind.RGB}
_TEXTS: dict[str, type[BaseModel]] = {
    "stream.started": Started,
    "drop": Drop,
    "stats": Stats,
    "stream.reset": Reset,
    "stream.ended": Ended,
    "error": ErrorMessage,
}


_FIRST_DELAY, _MOST_DELAY = 0.1, 5.0  # seconds between tries to come back
_END = '{"type":"stream.end"}'
_UNANSWERED = "keepalive ping timeout"  # the reason of a server that takes its client for dead


class _LaterError(Exception):
    """The server cannot be had at the moment."""


@dataclass(frozen=True, slots=True)
class Result:
    """One frame's result.

    Attributes:
        meta: figures as on the wire.
        mask: class ids uint8 [H, W], or None if the stream asked for none or for PNG.
        bit_map: float32 [h, w], bits 0 to 8, or None if not asked for.
        blobs: every blob's bytes by name.
        nbytes: of the whole message.
    """

    meta: ResultMeta
    mask: NDArray[np.uint8] | None
    bit_map: NDArray[np.float32] | None
    blobs: dict[str, bytes]
    nbytes: int


Answer = Result | Drop | Stats | Reset | Ended | ErrorMessage


class ClientStream:
    """An open stream. `send` waits for a credit; `receive` gives credits back.

    Where the stream may be resumed, `receive` does it when the connection breaks, and gives a
    `Drop` with the reason `disconnected` for each frame whose answer is lost.
    """

    def __init__(
        self,
        dial: Callable[[], Awaitable[ClientConnection]],
        socket: ClientConnection,
        started: Started,
        patience: float,
    ) -> None:
        self.started = started
        self._dial, self._socket, self._patience = dial, socket, patience
        self._credits = asyncio.Semaphore(started.credits)
        self._seq = 0
        self._open: set[int] = set()
        self._lost: deque[Drop] = deque()
        self._unsaid: list[str] = []
        self._ending = False

    @property
    def next_seq(self) -> int:
        """What the next frame sent is called in its answer."""
        return self._seq

    @property
    def has_credit(self) -> bool:
        """A frame could be sent now without waiting."""
        return not self._credits.locked()

    async def send(
        self, data: bytes, pts_us: int | None = None, shape: tuple[int, int] | None = None
    ) -> int:
        """Send one frame's bytes of the stream's input kind; returns its seq.

        Waits while as many frames are on their way as the server allows, so somebody has to
        `receive` meanwhile.

        Args:
            data: the frame.
            pts_us: presentation time in microseconds; None takes the seq.
            shape: (height, width), of the input `rgb` alone, which needs it.

        Raises:
            RemoteError: the connection is gone.
        """
        await self._credits.acquire()
        seq = self._seq
        self._seq += 1
        stamp = seq if pts_us is None else pts_us
        self._open.add(seq)
        meta = {} if shape is None else {"shape": list(shape)}
        await self._put(Frame(_KINDS[self.started.input], seq, stamp, data, meta).pack())
        return seq

    async def update(self, changes: StreamUpdate) -> None:
        """Change options from the next frame on; after the server's last one that is nothing."""
        try:
            await self._put(changes.model_dump_json(exclude_none=True))
        except RemoteError as error:
            if not _ended(error.__cause__):
                raise

    async def end(self) -> None:
        """Say that no frame follows; the rest of the answers and `Ended` still come."""
        self._ending = True
        await self._put(_END)

    async def receive(self) -> Answer:
        """The server's next message.

        Raises:
            RemoteError: a fatal error, or the connection is gone.
        """
        while (answer := await self._next()) is None:
            pass
        if isinstance(answer, (Result, Drop)):
            self._credits.release()
        if isinstance(answer, ErrorMessage) and answer.fatal:
            raise RemoteError(answer.message, answer.code)
        if isinstance(answer, Started):
            raise RemoteError("the server started the stream twice")
        return answer

    async def _next(self) -> Answer | Started | None:
        if self._lost:
            return self._lost.popleft()
        try:
            answer = _parse(await self._socket.recv())
        except ConnectionClosed as error:
            if not self._may_resume(error):
                raise RemoteError(_why(error)) from error
            await self._resume()
            return None
        if isinstance(answer, (Result, Drop)):
            self._open.discard(answer.meta.seq if isinstance(answer, Result) else answer.seq)
        return answer

    async def __aiter__(self) -> AsyncIterator[Answer]:
        """Answers up to and including `Ended`."""
        while True:
            answer = await self.receive()
            yield answer
            if isinstance(answer, Ended):
                return

    async def _put(self, message: str | bytes) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            if not self._may_resume(error):
                raise RemoteError(_why(error)) from error
            if isinstance(message, str) and message != _END:
                self._unsaid.append(message)  # frames are lost, words are not

    def _may_resume(self, error: ConnectionClosed) -> bool:
        broke = error.rcvd is None or error.rcvd.reason == _UNANSWERED
        return broke and self._patience > 0 and self.started.resume is not None

    async def _resume(self) -> None:
        start = json.dumps({"type": "stream.start", "resume": self.started.resume})
        delay, failure = _FIRST_DELAY, OSError()
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    try:
                        self._socket, self.started = await _open(self._dial, start)
                        break
                    except (OSError, WebSocketException, _LaterError) as error:
                        failure = OSError(str(error))
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, _MOST_DELAY)
        except TimeoutError:
            text = f"the connection broke off and did not come back within {self._patience:g} s"
            raise RemoteError(f"{text}: {failure}") from failure
        self._lost += (Drop(seq=seq, reason="disconnected") for seq in sorted(self._open))
        self._open.clear()
        unsaid, self._unsaid = self._unsaid, []
        for text in [*unsaid, _END] if self._ending else unsaid:
            await self._put(text)

    async def _close(self) -> None:
        await self._socket.close()


@asynccontextmanager
async def connect(
    url: str, options: StreamStart, key: str | None = None, patience: float = 0.0
) -> AsyncIterator[ClientStream]:
    """Open a stream on a server.

    Args:
        url: of the server, `http://host:port` or `ws://host:port`.
        options: of the stream.
        key: an API key with the scope `stream`; None takes RESQ_KEY, and none where that is unset.
        patience: seconds for which a connection that broke is tried again; 0 gives up at once.

    Raises:
        OptionError: the address is none.
        UnreachableError: nothing answers there.
        RemoteError: the server refused the key or the options.
    """
    address = Address.of(url, key)

    async def dial() -> ClientConnection:
        return await connect_websocket(
            f"{address.websocket}/v1/streams",
            additional_headers=address.headers,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            max_size=_MAX_ANSWER,
        )

    try:
        socket, started = await _open(dial, options.model_dump_json(exclude_none=True))
    except _LaterError as error:
        raise RemoteError(str(error)) from error
    except OSError as error:
        raise UnreachableError(address.http, error.strerror or error) from error
    except WebSocketException as error:
        raise RemoteError(f"no ResQ server is at {address.http}: {error}") from error
    stream = ClientStream(dial, socket, started, patience)
    try:
        yield stream
    finally:
        await stream._close()


async def _open(
    dial: Callable[[], Awaitable[ClientConnection]], start: str
) -> tuple[ClientConnection, Started]:
    """A connection whose stream has started."""
    socket = await dial()
    try:
        await socket.send(start)
        first = _parse(await socket.recv())
        if isinstance(first, ErrorMessage):
            raise RemoteError(first.message, first.code)
        if not isinstance(first, Started):
            raise RemoteError(f"the server began with {type(first).__name__}, not with started")
        return socket, first
    except ConnectionClosed as error:
        if error.rcvd is not None and error.rcvd.code == Close.UNAUTHORIZED:
            raise KeyRefusedError(error.rcvd.reason) from error
        again = error.rcvd is None or error.rcvd.code == Close.FULL
        raise (_LaterError if again else RemoteError)(_why(error)) from error
    except BaseException:
        await socket.close()
        raise


def _ended(error: BaseException | None) -> bool:
    """The server closed the connection because all was said."""
    closed = error.rcvd if isinstance(error, ConnectionClosed) else None
    return closed is not None and closed.code == CloseCode.NORMAL_CLOSURE


def _why(error: ConnectionClosed) -> str:
    if error.rcvd is None:
        return "the connection broke off"
    return f"the server closed the connection: {error.rcvd.code} {error.rcvd.reason}"


def _parse(message: str | bytes) -> Answer | Started:
    if isinstance(message, bytes):
        return _parse_result(Frame.unpack(message), len(message))
    value: dict[str, Any] = json.loads(message)
    model = _TEXTS.get(str(value.get("type")))
    if model is None:
        raise RemoteError(f"the server sent a message of the unknown type {value.get('type')!r}")
    parsed = model.model_validate_json(message)
    assert isinstance(parsed, (Started, Drop, Stats, Reset, Ended, ErrorMessage))
    return parsed


def _parse_result(frame: Frame, nbytes: int) -> Result:
    meta = ResultMeta.model_validate_json(json.dumps(frame.meta))
    blobs = frame.blobs()
    mask: NDArray[np.uint8] | None = None
    bit_map: NDArray[np.float32] | None = None
    if "mask" in blobs and blobs["mask"][0]["format"] == "zlib-ids":
        mask = unpack_ids(blobs["mask"][1], blobs["mask"][0]["shape"])
    if "bit_map" in blobs:
        bit_map = unpack_bits(blobs["bit_map"][1], blobs["bit_map"][0]["shape"])
    named = {name: data for name, (_, data) in blobs.items()}
    return Result(meta, mask, bit_map, named, nbytes)
