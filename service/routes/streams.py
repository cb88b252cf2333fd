"""Live streams: the WebSocket, and a look at what is active."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Response, WebSocket, WebSocketDisconnect

from service.access import Caller
from service.errors import Problem
from service.protocol import SUBPROTOCOL, Close
from service.registry import FullError, QuotaError
from service.routes.context import Context, Here
from service.session import Session
from service.transport import Disconnected

__all__ = ["router"]

router = APIRouter(prefix="/v1/streams", tags=["streams"])


class _Socket:
    """A WebSocket as a session sees it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def receive(self) -> str | bytes:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            # uvicorn gives a reason, be it empty, where one side has closed
            raise Disconnected(vanished="reason" not in message)
        text: str | None = message.get("text")
        if text is not None:
            return text
        data: bytes = message["bytes"]
        return data

    async def send(self, data: str | bytes) -> None:
        try:
            if isinstance(data, str):
                await self._socket.send_text(data)
            else:
                await self._socket.send_bytes(data)
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            raise Disconnected from error

    async def close(self, code: int, reason: str) -> None:
        try:
            await self._socket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            raise Disconnected from error


@router.websocket("")
async def stream(socket: WebSocket, here: Here) -> None:
    """One stream, subprotocol `resq.v1`."""
    if SUBPROTOCOL not in socket.scope.get("subprotocols", []):
        await socket.accept()
        await socket.close(int(Close.VIOLATION), f"offer the subprotocol {SUBPROTOCOL}")
        return
    await socket.accept(SUBPROTOCOL)
    caller: Caller = socket.state.caller
    try:
        slot = here.registry.admit(caller.name, may_resume=True)
    except (FullError, QuotaError) as error:
        full = isinstance(error, FullError)
        code = Close.FULL if full else Close.QUOTA
        here.services.metrics.rejects.labels("full" if full else "too_much").inc()
        here.services.metrics.closes.labels(str(int(code))).inc()
        await socket.close(int(code), str(error))
        return
    session = Session(here.services, _Socket(socket), slot)
    watch = asyncio.create_task(_watch(here, caller, session))
    try:
        await session.run()
    finally:
        watch.cancel()


async def _watch(here: Context, caller: Caller, session: Session) -> None:
    await here.access.until_revoked(caller)
    session.stop("key_revoked")


@router.get("")
async def list_streams(here: Here) -> dict[str, Any]:
    """Active streams, and the load: workers there are, those that streams may claim (`limit`), what
    declared streams claim (`reserved`), and how many were busy lately (`measured`).
    """
    return {
        "streams": [s.describe() for s in here.registry.sessions.values()],
        "load": here.services.capacity.describe(time.perf_counter()),
    }


@router.get("/{name}")
async def get_stream(name: str, here: Here) -> dict[str, Any]:
    """One active stream."""
    session = here.registry.sessions.get(name)
    if session is None:
        raise Problem(404, "unknown_stream", f"no active stream has the id {name[:64]!r}")
    return session.describe()


@router.delete("/{name}", status_code=204)
async def end_stream(name: str, here: Here) -> Response:
    """End a stream; its client gets `stream.ended`, then a close."""
    session = here.registry.sessions.get(name)
    if session is None:
        raise Problem(404, "unknown_stream", f"no active stream has the id {name[:64]!r}")
    session.stop("deleted")
    return Response(status_code=204)
