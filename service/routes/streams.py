"""Streams: the WebSocket, and what an operator sees of the active ones."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response, WebSocket, WebSocketDisconnect

from service.errors import Problem
from service.protocol import SUBPROTOCOL, Close
from service.registry import FullError, Registry
from service.session import Disconnected, Session

__all__ = ["router"]

router = APIRouter(prefix="/v1/streams")


class _Socket:
    """Starlette's WebSocket as a session's transport."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def receive(self) -> str | bytes:
        message = await self._socket.receive()
        if message["type"] != "websocket.receive":
            raise Disconnected
        text, data = message.get("text"), message.get("bytes")
        return text if text is not None else bytes(data or b"")

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
            await self._socket.close(code, reason[:120])
        except (RuntimeError, OSError) as error:
            raise Disconnected from error


@router.websocket("")
async def stream(socket: WebSocket) -> None:
    """One stream per connection; see docs/protocol.md."""
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    registry: Registry = socket.app.state.registry
    services = socket.app.state.services
    try:
        slot = registry.admit()
    except FullError as error:
        services.metrics.rejects.labels("full").inc()
        await socket.close(Close.FULL, str(error))
        return
    await Session(services, _Socket(socket), slot).run()


@router.get("")
async def list_streams(request: Request) -> dict[str, Any]:
    """The active streams."""
    sessions = request.app.state.registry.sessions.values()
    return {"streams": [session.describe() for session in sessions]}


@router.get("/{name}")
async def show_stream(request: Request, name: str) -> dict[str, Any]:
    """One active stream."""
    result: dict[str, Any] = _find(request, name).describe()
    return result


@router.delete("/{name}", status_code=204)
async def end_stream(request: Request, name: str) -> Response:
    """End a stream; its client gets the totals."""
    _find(request, name).stop("deleted")
    return Response(status_code=204)


def _find(request: Request, name: str) -> Any:
    session = request.app.state.registry.sessions.get(name)
    if session is None:
        raise Problem(404, "unknown_stream", f"no active stream has the id {name[:64]!r}")
    return session
