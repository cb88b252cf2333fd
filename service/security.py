"""The door of the application: headers on the way out, keys and limits on the way in."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from service.access import Access, Asked, Caller
from service.errors import PROBLEM_TYPE, Problem
from service.logs import note
from service.metrics import Metrics
from service.protocol import BEARER_PREFIX, SUBPROTOCOL, Close

__all__ = ["Failures", "Guard", "SecurityHeaders"]

_log = logging.getLogger("resq.http")

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_CLOSES = {429: Close.QUOTA, 401: Close.UNAUTHORIZED}  # all else is FORBIDDEN
_MAX_REASON = 123  # bytes, RFC 6455
_UPLOADS = "/v1/clips"  # bodies of that path have limits of their own
_MAX_BODY = 256 * 1024  # bytes


class SecurityHeaders:
    """Adds the headers to every HTTP response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                own = scope["path"].startswith("/web/") or scope["path"] == "/"
                headers["cache-control"] = "no-cache" if own else "no-store"
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Failures:
    """Answers 500 for what nothing else has caught, and logs it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noting_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except Exception:
            if begun:
                raise
            _log.exception("a request failed")
            problem = Problem(500, "internal_error", "the server failed; its log says more")
            answer = JSONResponse(problem.body(), problem.status, media_type=PROBLEM_TYPE)
            await answer(scope, receive, send)


class Guard:
    """Lets requests in as `access` says; the rest get problem details, or a close with a reason.

    Those let in carry their `Caller` in the state of the scope.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            caller = self._access.admit(_asked(scope, headers))
            length = headers.get("content-length", "")
            if length.isdecimal():
                self._access.announce(caller, int(length))
        except Problem as problem:
            metrics: Metrics = scope["app"].state.context.services.metrics
            metrics.rejects.labels(problem.code).inc()
            if scope["type"] == "http":
                body, status = problem.body(), problem.status
                answer = JSONResponse(body, status, problem.headers, media_type=PROBLEM_TYPE)
                await answer(scope, receive, send)
            else:
                await _close(WebSocket(scope, receive, send), problem, metrics)
            return
        scope.setdefault("state", {})["caller"] = caller
        if caller.key is not None:
            note(key_name=caller.key.name)
        if scope["type"] == "http":
            limit = None if scope["path"] == _UPLOADS else _MAX_BODY
            receive = _Body(self._access, caller, receive, limit).receive
        await self._app(scope, receive, send)


class _Body:
    """A request's body, counted; it ends when the key of its caller is revoked."""

    def __init__(self, access: Access, caller: Caller, receive: Receive, limit: int | None) -> None:
        self._access, self._caller, self._receive = access, caller, receive
        self._limit, self._size, self._whole = limit, 0, False

    async def receive(self) -> Message:
        """The next message.

        Raises:
            Problem: 429 beyond the day's bytes, 401 when the key was revoked, 413 beyond `limit`.
        """
        message = await self._unless_revoked()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._access.upload(self._caller, size)
            self._size += size
            if self._limit is not None and self._size > self._limit:
                detail = f"the body is too big; expected at most {self._limit} bytes"
                raise Problem(413, "too_big", detail)
            self._whole = not message.get("more_body", False)
        return message

    async def _unless_revoked(self) -> Message:
        if self._caller.key is None:
            return await self._receive()
        receiving = asyncio.ensure_future(self._receive())
        revoking = asyncio.ensure_future(self._access.until_revoked(self._caller))
        both = (receiving, revoking)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                return receiving.result()
        finally:
            for task in both:
                task.cancel()
        if self._whole:  # an answer under way: it ends as if the client had gone
            return {"type": "http.disconnect"}
        raise Problem(401, "bad_key", "the API key was revoked")


def _asked(scope: Scope, headers: Headers) -> Asked:
    client = scope.get("client")
    is_socket = scope["type"] == "websocket"
    return Asked(
        method="WEBSOCKET" if is_socket else scope["method"],
        path=scope["path"],
        address=client[0] if client else "",
        host=headers.get("host", ""),
        origin=headers.get("origin"),
        token=_token(headers, scope.get("subprotocols", []) if is_socket else []),
    )


def _token(headers: Headers, subprotocols: list[str]) -> str | None:
    """The key that was sent, "" for something that is none, None for nothing."""
    header = headers.get("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""
    for name in subprotocols:
        if name.startswith(BEARER_PREFIX):
            text = name.removeprefix(BEARER_PREFIX)
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
            except (binascii.Error, ValueError):
                return ""
    return None


async def _close(socket: WebSocket, problem: Problem, metrics: Metrics) -> None:
    """Accept, then close: a refusal before that would reach browsers without any reason."""
    code = _CLOSES.get(problem.status, Close.FORBIDDEN)
    metrics.closes.labels(str(int(code))).inc()
    reason = problem.detail.encode()[:_MAX_REASON].decode(errors="ignore")
    _log.info("stream refused", extra={"facts": {"code": problem.code, "why": problem.detail}})
    offered = SUBPROTOCOL in socket.scope.get("subprotocols", [])
    try:
        await socket.accept(SUBPROTOCOL if offered else None)
        await socket.close(int(code), reason)
    except (WebSocketDisconnect, RuntimeError, OSError):
        return  # it did not wait for the answer
