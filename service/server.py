"""Uvicorn around the application, with streams ended in order before the sockets close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.app import create_app
from service.config import Config
from service.engine import Engine
from service.redaction import redact_logs
from service.routes.context import Context
from service.wire import HEADER_SIZE, MAX_META

__all__ = ["Server", "running"]

_log = logging.getLogger("resq.server")
_DRAIN_SECONDS = 5.0
_LINGER_SECONDS = 5.0  # for what was written to a connection that is over


class _WebSocket(WebSocketsSansIOProtocol):
    """Uvicorn's, but a connection that is over is gone, though its peer neither reads nor answers.

    Uvicorn closes a transport and no more, which waits for the peer until the kernel gives up.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.conn.debug = False  # it logs messages, cut short: parts of frames and of secrets

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.close":
            self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()


class Server(uvicorn.Server):
    """A server that is ready to `run()`.

    Args:
        config: settings.
        engine: where frames are inferred.
        log_level: of uvicorn; where its log goes, `logs.set_up_logs` says.

    Raises:
        ConfigError: others could reach it without a key, or the file of keys cannot be used.
    """

    def __init__(self, config: Config, engine: Engine, log_level: str = "info") -> None:
        self._app = create_app(config, engine)
        super().__init__(
            uvicorn.Config(
                self._app,
                host=config.host,
                port=config.port,
                log_level=log_level,
                log_config=None,
                ws=_WebSocket,
                ws_max_size=config.max_frame_bytes + MAX_META + HEADER_SIZE,
                ws_per_message_deflate=False,
                ws_ping_interval=config.ping_timeout,
                ws_ping_timeout=config.ping_timeout,
                timeout_graceful_shutdown=10,
                server_header=False,
            )
        )
        redact_logs()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let every stream say its totals, then close."""
        context: Context = self._app.state.context
        _log.info("draining", extra={"facts": {"streams": len(context.registry.sessions)}})
        context.registry.drain("shutdown")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(context.registry.empty(), _DRAIN_SECONDS)
        _log.info("drained", extra={"facts": {"streams": len(context.registry.sessions)}})
        await super().shutdown(sockets)


@contextlib.contextmanager
def running(server: Server) -> Iterator[str]:
    """Run a server in a thread, on a free port of this machine; gives its address.

    Raises:
        RuntimeError: it did not start; its log says why.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start; its log says why")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listener.close()
