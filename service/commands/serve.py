"""`resq serve`: the server and its page."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resq_core.backends import Backend
from service.commands.shared import Device
from service.logs import LogLevel

if TYPE_CHECKING:
    from service.config import Config

__all__ = ["serve"]

_log = logging.getLogger("resq.serve")


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of streams that name none.")] = None,
    threads: Annotated[int | None, typer.Option(help="Frames inferred at the same time.")] = None,
    backend: Annotated[Backend | None, typer.Option(help="Else RESQ_BACKEND, or auto.")] = None,
    device: Device = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Else RESQ_LOG_LEVEL.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print what is in force, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Log JSON, an object a line.")] = False,
) -> None:
    """Serve streams, clips and the web page. Every other setting is a RESQ_* variable, or stands in
    the file."""
    from service.config import load_settings
    from service.config_text import in_force

    settings = load_settings(
        config,
        host=host,
        port=port,
        model=model,
        threads=threads,
        backend=backend,
        device=device,
        log_level=log_level,
        log_format="json" if as_json else None,
    )
    if print_config:
        typer.echo(in_force(settings), nl=False)
        return
    _run(settings.config)


def _run(config: Config) -> None:
    from resq_core.backends.choice import serving_here
    from resq_core.device import checked_device
    from service.config import doubtful_variables
    from service.local_engine import LocalEngine, open_shelves, shelf_models
    from service.logs import set_up_logs
    from service.server import Server

    set_up_logs(config.log_level, config.log_format)
    for words in doubtful_variables():
        _log.warning(words)
    here = serving_here(config.backend, checked_device(config.device))
    shelves = open_shelves(config.models_dir)
    models = shelf_models(*shelves, backend=config.backend, device=config.device)
    engine = LocalEngine(models, config.threads_per_frame, config.max_active)
    engine.card(config.model)  # a wrong name ends it here, not at the first stream
    server = Server(config, engine, config.log_level)
    why = f" ({here.reason})" if here.reason else ""
    _log.info(
        "ResQ on http://%s:%d, backend %s%s, %d x %d threads",
        config.host,
        config.port,
        here.backend,
        why,
        config.workers,
        config.threads_per_frame,
    )
    server.run()
