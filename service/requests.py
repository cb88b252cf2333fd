"""Each request and connection has an id: in its answer, in what is logged of it, and in traces."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import noted
from service.traces import Traces

__all__ = ["Requests"]

_HEADER = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Requests:
    """Takes a caller's `X-Request-Id` if it is 1 to 64 of A-Z a-z 0-9 . _ -, else makes one.

    Args:
        traces: a span for each goes here.
    """

    def __init__(self, app: ASGIApp, traces: Traces | None) -> None:
        self._app, self._traces = app, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(_HEADER, "")
        name = given if _SANE.fullmatch(given) else secrets.token_hex(8)

        async def send_with_id(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                MutableHeaders(scope=message)[_HEADER] = name
            await send(message)

        with noted(request=name):
            if self._traces is None:
                await self._app(scope, receive, send_with_id)
            else:
                await self._traced(self._traces, scope, receive, send_with_id)

    async def _traced(self, traces: Traces, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method", "WEBSOCKET")
        with traces.request(method, Headers(scope=scope), scope["path"]) as span:

            async def send_with_status(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            await self._app(scope, receive, send_with_status)
            if "route" in scope:  # few names, however many ids
                span.update_name(f"{method} {scope['route'].path}")
