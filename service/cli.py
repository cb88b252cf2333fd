"""The `resq` command."""

from __future__ import annotations

import sys

import typer

from resq_core.errors import ResqError
from service.client import RemoteError
from service.commands.bops import bops
from service.commands.calibrate import calibrate
from service.commands.demo import demo
from service.commands.doctor import doctor
from service.commands.evaluate import evaluate
from service.commands.keys import keys
from service.commands.models import models
from service.commands.run import run
from service.commands.serve import serve
from service.commands.tune import tune
from service.commands.world import world
from service.config import ConfigError
from service.decoder import ClipError
from service.engine import EngineError
from service.job_store import StoreError

__all__ = ["app", "main"]

app = typer.Typer(
    name="resq",
    help="Residual quantization for video perception.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("bops")(bops)
app.command("calibrate")(calibrate)
app.command("demo")(demo)
app.command("doctor")(doctor)
app.command("eval")(evaluate)
app.command("run")(run)
app.command("serve")(serve)
app.command("tune")(tune)
app.command("world")(world)
app.add_typer(keys, name="keys")
app.add_typer(models, name="models")


_MENDABLE = (ResqError, ClipError, ConfigError, EngineError, RemoteError, StoreError, OSError)


def main() -> None:
    """Run; an error that is the user's to mend is one line, not a traceback."""
    try:
        app()
    except _MENDABLE as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
