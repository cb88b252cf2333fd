"""Live streams: the WebSocket, those that are pulled, and a look at what is active."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, StreamingResponse

from service.access import Caller
from service.errors import Problem
from service.outbound import ForbiddenHostError
from service.protocol import SUBPROTOCOL, Close
from service.pulls import PullRefusedError, PullStart
from service.registry import FullError, QuotaError, Registered
from service.routes.answers import StreamInfo, StreamList, ndjson, problems
from service.routes.context import Context, Here
from service.session import Session
from service.taps import Taps
from service.transport import Disconnected

__all__ = ["router"]

_log = logging.getLogger("resq.http")
router = APIRouter(prefix="/v1/streams", tags=["streams"])


class _Socket:
    """A WebSocket as a session sees it."""

    def __init__(self, socket: WebSocket, trusted: bool) -> None:
        self._socket, self.trusted = socket, trusted

    def describe(self) -> dict[str, Any]:
        return {}

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
        facts = {"code": "full" if full else "too_much", "why": str(error)}
        _log.info("stream refused", extra={"facts": facts})
        await socket.close(int(code), str(error))
        return
    session = Session(here.services, _Socket(socket, caller.is_admin), slot)
    watch = asyncio.create_task(_watch(here, caller, session))
    try:
        await session.run()
    finally:
        watch.cancel()


async def _watch(here: Context, caller: Caller, session: Session) -> None:
    await here.access.until_revoked(caller)
    session.stop("key_revoked")


@router.post(
    "", status_code=201, response_model=StreamInfo, responses=problems(400, 409, 413, 422, 503, 507)
)
async def pull_stream(request: Request, wanted: PullStart, here: Here) -> JSONResponse:
    """Pull a stream from an RTSP or HTTP URL whose host the operator allows; it goes on until it
    is deleted, over losses of the source and restarts of the server, or its source has ended."""
    caller: Caller = request.state.caller
    try:
        name = await here.pulls.add(wanted, caller.name)
    except ForbiddenHostError as error:
        raise Problem(422, "forbidden_url", str(error), field="url") from error
    except PullRefusedError as error:
        status = {"bad_options": 422, "duplicate_id": 409}.get(error.code, 503)
        raise Problem(status, error.code, str(error), field=error.field) from error
    except FullError as error:
        raise Problem(503, "full", str(error), {"retry-after": "10"}) from error
    except QuotaError as error:
        raise Problem(429, "too_much", str(error), {"retry-after": "60"}) from error
    session = here.registry.sessions.get(name)  # a short source may be over by now
    facts = {"id": name} if session is None else session.describe()
    return JSONResponse(facts, 201, {"location": f"/v1/streams/{name}"})


@router.get("", response_model=StreamList, response_model_exclude_unset=True, responses=problems())
async def list_streams(request: Request, here: Here) -> dict[str, Any]:
    """Active streams, those of the key alone where it is not one with the scope admin, and the
    load: workers there are, those that streams may claim (`limit`), what declared streams claim
    (`reserved`), and how many were busy lately (`measured`).
    """
    caller: Caller = request.state.caller
    everyone = here.registry.sessions.values()
    sessions = everyone if caller.is_admin else here.registry.of(caller.name)
    others = here.elsewhere.values() if caller.is_admin else ()
    return {
        "all": caller.is_admin,
        "streams": [*(s.describe() for s in sessions), *others],
        "load": here.services.capacity.describe(time.perf_counter()),
    }


@router.get(
    "/{name}",
    response_model=StreamInfo,
    response_model_exclude_unset=True,
    responses=problems(404),
)
async def get_stream(name: str, here: Here) -> dict[str, Any]:
    """One active stream, of this server or of one that shares its workers."""
    if name in here.elsewhere and name not in here.registry.sessions:
        return dict(here.elsewhere[name])
    return _find(here, name).describe()


@router.get(
    "/{name}/results",
    response_class=StreamingResponse,
    responses=problems(404, 409) | ndjson(),
)
async def follow_results(name: str, here: Here) -> StreamingResponse:
    """Results from now on as NDJSON, to the end of the stream; a reader that is slower than the
    stream gets the newest, and sees by `seq` what it missed."""
    taps = _find(here, name).taps
    if taps is None:
        raise Problem(409, "not_started", "the stream has not started or has ended")
    return StreamingResponse(_lines(taps), media_type="application/x-ndjson")


@router.delete("/{name}", status_code=204, responses=problems(404, 503))
async def end_stream(name: str, here: Here) -> Response:
    """End a stream. A client gets `stream.ended`, then a close; a source is disconnected and
    forgotten when this is answered."""
    if not await here.pulls.delete(name):
        _find(here, name).stop("deleted")
    return Response(status_code=204)


def _find(here: Context, name: str) -> Registered:
    session = here.registry.sessions.get(name)
    if session is None:
        raise Problem(404, "unknown_stream", f"no active stream has the id {name[:64]!r}")
    return session


async def _lines(taps: Taps) -> AsyncIterator[bytes]:
    with taps.follow() as lines:
        while found := await lines.get():
            yield found[0]
