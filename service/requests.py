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
        headers = Headers(scope=scope)
        given = headers.get(_HEADER, "")
        name = given if _SANE.fullmatch(given) else secrets.token_hex(8)

        async def send_with_id(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                MutableHeaders(scope=message)[_HEADER] = name
            await send(message)

        with noted(request=name):
            if self._traces is None:
                await self._app(scope, receive, send_with_id)
                return
            method = scope.get("method", "WEBSOCKET")
            with self._traces.request(method, headers, scope["path"]) as span:
                span.set_attribute("resq.request", name)
                await self._app(scope, receive, send_with_id)
                if "route" in scope:  # few names, however many ids
                    span.update_name(f"{method} {scope['route'].path}")
