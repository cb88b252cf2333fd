"""Uvicorn around the application, with streams ended in order before the sockets close."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn

from service.app import create_app
from service.config import Config
from service.engine import Engine
from service.redaction import redact_logs
from service.routes.context import Context
from service.wire import HEADER_SIZE, MAX_META

__all__ = ["Server", "running"]

_DRAIN_SECONDS = 5.0
_PING_SECONDS = 20.0


class Server(uvicorn.Server):
    """A server that is ready to `run()`.

    Args:
        config: settings.
        engine: where frames are inferred.
        log_level: of uvicorn.

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
                ws="websockets-sansio",
                ws_max_size=config.max_frame_bytes + MAX_META + HEADER_SIZE,
                ws_per_message_deflate=False,
                # a network that is gone for less than the idle timeout ends no stream
                ws_ping_timeout=max(_PING_SECONDS, config.idle_timeout),
                timeout_graceful_shutdown=10,
                server_header=False,
            )
        )
        redact_logs()  # uvicorn has just set up its handlers

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let every stream say its totals, then close."""
        context: Context = self._app.state.context
        context.registry.drain("shutdown")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(context.registry.empty(), _DRAIN_SECONDS)
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
