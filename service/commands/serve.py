"""`resq serve`: the server and its page."""

from __future__ import annotations

from typing import Annotated

import typer

from service.config import load_config
from service.engine import LocalEngine
from service.server import Server

__all__ = ["serve"]


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of streams that name none.")] = None,
    threads: Annotated[int | None, typer.Option(help="Frames inferred at the same time.")] = None,
) -> None:
    """Serve streams, clips and the web page. Every other setting is a RESQ_* variable."""
    config = load_config(host=host, port=port, model=model, threads=threads)
    engine = LocalEngine(torch_threads=config.threads_per_frame)
    engine.card(config.model)  # a wrong name ends it here, not at the first stream
    typer.echo(f"ResQ on http://{config.host}:{config.port}", err=True)
    Server(config, engine).run()
