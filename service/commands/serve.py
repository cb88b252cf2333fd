"""`resq serve`: the server and its page."""

from __future__ import annotations

from typing import Annotated

import typer

from resq_core.backends import Backend, serving_here
from resq_core.errors import OptionError
from service.config import load_config
from service.local_engine import LocalEngine, open_shelves, shelf_models
from service.server import Server

__all__ = ["serve"]

_LEVELS = ("debug", "info", "warning", "error")


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of streams that name none.")] = None,
    threads: Annotated[int | None, typer.Option(help="Frames inferred at the same time.")] = None,
    backend: Annotated[Backend | None, typer.Option(help="Else RESQ_BACKEND, or auto.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve streams, clips and the web page. Every other setting is a RESQ_* variable."""
    if log_level not in _LEVELS:
        raise OptionError(f"log-level is {log_level!r}; expected one of {', '.join(_LEVELS)}")
    config = load_config(host=host, port=port, model=model, threads=threads, backend=backend)
    shelves = open_shelves(config.models_dir)
    models = shelf_models(*shelves, backend=config.backend)
    engine = LocalEngine(models, config.threads_per_frame, config.max_active)
    engine.card(config.model)  # a wrong name ends it here, not at the first stream
    server = Server(config, engine, log_level)
    if log_level in ("debug", "info"):
        here = serving_here(config.backend)
        why = f" ({here.reason})" if here.reason else ""
        typer.echo(
            f"ResQ on http://{config.host}:{config.port}, backend {here.backend}{why}, "
            f"{config.workers} x {config.threads_per_frame} threads",
            err=True,
        )
    server.run()
