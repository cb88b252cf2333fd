"""The `resq` command."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from service.commands.bench import bench
from service.commands.bops import bops
from service.commands.calibrate import calibrate
from service.commands.clips import clips
from service.commands.demo import demo
from service.commands.doctor import doctor
from service.commands.evaluate import evaluate
from service.commands.experiment import experiment
from service.commands.keys import keys
from service.commands.loadgen import loadgen
from service.commands.models import models
from service.commands.plan import plan
from service.commands.run import run
from service.commands.serve import serve
from service.commands.stream import stream
from service.commands.train import train
from service.commands.train_float import train_float
from service.commands.train_objects import train_objects
from service.commands.train_pose import train_pose
from service.commands.tune import tune
from service.commands.workers import workers
from service.commands.world import world

__all__ = ["app", "main"]

_CODES = (
    "Exit codes: 0 done; 1 it ran, and the outcome is bad; 2 something for you to mend, which the "
    "message names; 130 interrupted."
)

app = typer.Typer(
    name="resq",
    help="Residual quantization for video perception.",
    epilog=_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("bench")(bench)
app.command("bops")(bops)
app.command("calibrate")(calibrate)
app.command("demo")(demo)
app.command("doctor")(doctor)
app.command("eval")(evaluate)
app.command("loadgen")(loadgen)
app.command("plan")(plan)
app.command("run")(run)
app.command("serve")(serve)
app.command("stream")(stream)
app.command("train")(train)
app.command("train-float")(train_float)
app.command("train-objects")(train_objects)
app.command("train-pose")(train_pose)
app.command("tune")(tune)
app.command("world")(world)
app.add_typer(clips, name="clips")
app.add_typer(experiment, name="experiment")
app.add_typer(keys, name="keys")
app.add_typer(models, name="models")
app.add_typer(workers, name="workers")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"resq {version('resq')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print it, and end."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run; an error that is the user's to mend is one line, not a traceback."""
    try:
        app()
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    """What an error that is the user's to mend ends with; None of any other.

    Imported here: whatever raised one of them has imported it, and torch, already.
    """
    from resq_core.errors import ResqError
    from service.client import OutcomeError, RemoteError
    from service.config import ConfigError
    from service.decoder import ClipError
    from service.engine import EngineError
    from service.job_store import StoreError

    if isinstance(error, OutcomeError):
        return 1
    mendable = (ResqError, ClipError, ConfigError, EngineError, RemoteError, StoreError, OSError)
    return 2 if isinstance(error, mendable) else None


if __name__ == "__main__":
    main()
