"""`resq workers`: the workers of a cluster of Ray, which servers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from service.commands.shared import Json, print_json
from service.config import ConfigError

__all__ = ["workers"]

workers = typer.Typer(
    help="Workers of the engine ray, which the servers of a cluster share.", no_args_is_help=True
)
Address = Annotated[str, typer.Option(help="Of the cluster; auto is the one of this machine.")]
_SECONDS = 10.0


def _ask(address: str, method: Callable[[Any], Any], *args: Any) -> Any:
    """What the roster says."""
    if find_spec("ray") is None:
        raise ConfigError("this needs Ray: pip install 'resq[ray]'")
    from service.cluster.call import call
    from service.cluster.joining import find_roster

    return call(method(find_roster(address)), *args, seconds=_SECONDS)


@workers.command("list")
def list_(ray_address: Address = "auto", as_json: Json = False) -> None:
    """Every worker: where it is, its state and its load."""
    members = _ask(ray_address, lambda roster: roster.workers)
    rows = [{**asdict(m.worker), "host": m.host, "pid": m.pid} for m in members]
    if as_json:
        print_json(rows)
        return
    names = ("worker", "host", "pid", "state", "streams", "slots", "claimed", "busy")
    table = Table(*names, box=SIMPLE, pad_edge=False)
    for row in rows:
        loads = (f"{row[name]:.2f}" for name in ("slots", "claimed", "measured"))
        facts = (row[name] for name in ("name", "host", "pid", "state", "streams"))
        table.add_row(*map(str, facts), *loads)
    Console().print(table)


@workers.command("drain")
def drain(
    name: Annotated[str, typer.Argument(help="As `resq workers list` prints it.")],
    ray_address: Address = "auto",
    as_json: Json = False,
) -> None:
    """Have the streams of a worker go on with others, then end it."""
    if not _ask(ray_address, lambda roster: roster.drain, name):
        raise ConfigError(f"there is no worker {name}; resq workers list shows those there are")
    if as_json:
        print_json({"draining": [name]})


@workers.command("renew")
def renew(ray_address: Address = "auto", as_json: Json = False) -> None:
    """Replace every worker by a new one, one after the other, while streams go on."""
    names = list(_ask(ray_address, lambda roster: roster.renew))
    if as_json:
        print_json({"replacing": names})
        return
    typer.echo(f"{len(names)} workers are being replaced; resq workers list shows how far it is")
