"""`resq serve`: the streaming server."""

from __future__ import annotations

from typing import Annotated

import typer
import uvicorn

from service.app import create_app
from service.config import load_config

__all__ = ["serve"]

_OVERHEAD = 1 << 21  # header and meta of a frame


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
) -> None:
    """Serve streams over WebSocket; every other setting is an environment variable RESQ_*."""
    config = load_config(host=host, port=port)
    uvicorn.run(
        create_app(config),
        host=config.host,
        port=config.port,
        ws="websockets-sansio",
        ws_max_size=config.max_frame_bytes + _OVERHEAD,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=10,
        server_header=False,
    )
