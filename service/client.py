"""A Python client of the WebSocket protocol `resq.v1`.

>>> start = StreamStart(mode="lossless")
>>> async with connect("http://127.0.0.1:8000", start) as stream:  # doctest: +SKIP
...     await stream.send(jpeg)
...     answer = await stream.receive()
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

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
from service.protocol import SUBPROTOCOL
from service.wire import Frame, Kind

__all__ = ["Answer", "ClientStream", "RemoteError", "Result", "connect"]

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


class RemoteError(Exception):
    """The server refused something or closed the connection; the message is the server's."""


@dataclass(frozen=True, slots=True)
class Result:
    """One frame's result.

    Attributes:
        meta: figures as on the wire.
        mask: class ids uint8 [H, W], or None if the stream asked for none or for PNG.
        bit_map: float32 [h, w], bits 0 to 8, or None if not asked for.
        blobs: every blob's bytes by name.
    """

    meta: ResultMeta
    mask: NDArray[np.uint8] | None
    bit_map: NDArray[np.float32] | None
    blobs: dict[str, bytes]


Answer = Result | Drop | Stats | Reset | Ended | ErrorMessage


class ClientStream:
    """An open stream. `send` waits for a credit; `receive` gives credits back."""

    def __init__(self, socket: ClientConnection, started: Started) -> None:
        self.started = started
        self._socket = socket
        self._credits = asyncio.Semaphore(started.credits)
        self._seq = 0

    async def send(self, data: bytes, pts_us: int | None = None) -> int:
        """Send one frame's bytes of the stream's input kind; returns its seq.

        Waits while as many frames are on their way as the server allows, so somebody has to
        `receive` meanwhile.

        Raises:
            RemoteError: the connection is gone.
        """
        await self._credits.acquire()
        seq = self._seq
        self._seq += 1
        stamp = seq if pts_us is None else pts_us
        await self._put(Frame(_KINDS[self.started.input], seq, stamp, data).pack())
        return seq

    async def update(self, changes: StreamUpdate) -> None:
        """Change options from the next frame on."""
        await self._put(changes.model_dump_json(exclude_none=True))

    async def end(self) -> None:
        """Say that no frame follows; the rest of the answers and `Ended` still come."""
        await self._put('{"type":"stream.end"}')

    async def receive(self) -> Answer:
        """The server's next message.

        Raises:
            RemoteError: a fatal error, or the connection is gone.
        """
        answer = _parse(await _get(self._socket))
        if isinstance(answer, (Result, Drop)):
            self._credits.release()
        if isinstance(answer, ErrorMessage) and answer.fatal:
            raise RemoteError(answer.message)
        if isinstance(answer, Started):
            raise RemoteError("the server started the stream twice")
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
            raise RemoteError(_why(error)) from error


@asynccontextmanager
async def connect(
    url: str, options: StreamStart, key: str | None = None
) -> AsyncIterator[ClientStream]:
    """Open a stream on a server.

    Args:
        url: of the server, `http://host:port` or `ws://host:port`.
        options: of the stream.
        key: an API key with the scope `stream`; None takes RESQ_KEY, and none where that is unset.

    Raises:
        RemoteError: the server refused the key or the options.
        OSError: nothing answers at the address.
    """
    base = url.rstrip("/").replace("http", "ws", 1) if url.startswith("http") else url.rstrip("/")
    key = key or os.environ.get("RESQ_KEY")
    async with connect_websocket(
        f"{base}/v1/streams",
        additional_headers={"Authorization": f"Bearer {key}"} if key else None,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        max_size=_MAX_ANSWER,
    ) as socket:
        try:
            await socket.send(options.model_dump_json(exclude_none=True))
        except ConnectionClosed as error:
            raise RemoteError(_why(error)) from error
        first = _parse(await _get(socket))
        if isinstance(first, ErrorMessage):
            raise RemoteError(first.message)
        if not isinstance(first, Started):
            raise RemoteError(f"the server began with {type(first).__name__}, not with started")
        yield ClientStream(socket, first)


async def _get(socket: ClientConnection) -> str | bytes:
    try:
        return await socket.recv()
    except ConnectionClosed as error:
        raise RemoteError(_why(error)) from error


def _why(error: ConnectionClosed) -> str:
    if error.rcvd is None:
        return "the connection broke off"
    return f"the server closed the connection: {error.rcvd.code} {error.rcvd.reason}"


def _parse(message: str | bytes) -> Answer | Started:
    if isinstance(message, bytes):
        return _parse_result(Frame.unpack(message))
    value: dict[str, Any] = json.loads(message)
    model = _TEXTS.get(str(value.get("type")))
    if model is None:
        raise RemoteError(f"the server sent a message of the unknown type {value.get('type')!r}")
    parsed = model.model_validate_json(message)
    assert isinstance(parsed, (Started, Drop, Stats, Reset, Ended, ErrorMessage))
    return parsed


def _parse_result(frame: Frame) -> Result:
    meta = ResultMeta.model_validate_json(json.dumps(frame.meta))
    blobs = frame.blobs()
    mask: NDArray[np.uint8] | None = None
    bit_map: NDArray[np.float32] | None = None
    if "mask" in blobs and blobs["mask"][0]["format"] == "zlib-ids":
        mask = unpack_ids(blobs["mask"][1], blobs["mask"][0]["shape"])
    if "bit_map" in blobs:
        bit_map = unpack_bits(blobs["bit_map"][1], blobs["bit_map"][0]["shape"])
    return Result(meta, mask, bit_map, {name: data for name, (_, data) in blobs.items()})
