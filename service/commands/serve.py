"""`resq serve`: the server and its page."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resq_core.backends import Backend
from service.commands.shared import Device
from service.config import EngineKind
from service.logs import LogLevel

if TYPE_CHECKING:
    from service.config import Config
    from service.engine import Engine

__all__ = ["serve"]

_log = logging.getLogger("resq.serve")


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of streams that name none.")] = None,
    threads: Annotated[int | None, typer.Option(help="Frames inferred at the same time.")] = None,
    backend: Annotated[Backend | None, typer.Option(help="Else RESQ_BACKEND, or auto.")] = None,
    device: Device = None,
    engine: Annotated[EngineKind | None, typer.Option(help="Where frames are inferred.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Cluster of the engine ray, such as auto.")
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option("--workers", "--ray-workers", help="Workers of the engine ray.")
    ] = None,
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
        engine=engine,
        ray_address=ray_address,
        ray_workers=ray_workers,
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
    from service.logs import set_up_logs
    from service.server import Server

    set_up_logs(config.log_level, config.log_format)
    for words in doubtful_variables():
        _log.warning(words)
    here = serving_here(config.backend, checked_device(config.device))
    engine = _engine(config)
    engine.card(config.model)  # a wrong name ends it here, not at the first stream
    server = Server(config, engine, config.log_level)
    why = f" ({here.reason})" if here.reason else ""
    backend = f"backend {here.backend}{why}, {config.workers} x {config.threads_per_frame} threads"
    if config.engine is EngineKind.RAY:
        backend = f"workers of Ray {f'at {config.ray_address}' if config.ray_address else 'here'}"
    _log.info("ResQ on http://%s:%d, %s", config.host, config.port, backend)
    try:
        server.run()
    finally:
        engine.close()


def _engine(config: Config) -> Engine:
    from service.local_engine import shelf_engine

    folder = None if config.models_dir is None else config.models_dir.resolve()
    make = partial(shelf_engine, folder, config.backend, config.device)
    if config.engine is EngineKind.LOCAL:
        return make(config.threads_per_frame, config.max_active)
    from service.cluster.joining import join  # an extra of the package

    here = make(1, None)
    here.card(config.model)  # before any worker starts
    return join(config, here.models(), partial(make, 1, config.max_active))
