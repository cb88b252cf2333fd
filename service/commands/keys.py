"""`resq keys`: who may use the server."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from service.commands.shared import Json, print_json
from service.scopes import Scope

if TYPE_CHECKING:
    from service.keys import Key

__all__ = ["keys"]

keys = typer.Typer(
    help="API keys, kept hashed in RESQ_DATA_DIR; a running server follows every change.",
    no_args_is_help=True,
)


@keys.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    scope: Annotated[list[Scope], typer.Option(help="What for; may be given again.")],
    as_json: Json = False,
) -> None:
    """Make a key and print it: it is shown this once, and stored nowhere."""
    from service.config import load_config
    from service.keys import add_key

    key, token = add_key(load_config().data_dir, name, tuple(scope))
    if as_json:
        print_json(_told(key) | {"key": token})
        return
    typer.echo(f"{key.name}, for {', '.join(key.scopes)}; shown only now:", err=True)
    typer.echo(token)


@keys.command("list")
def list_(as_json: Json = False) -> None:
    """Every key that was ever made, without its secret."""
    from service.config import load_config
    from service.keys import read_keys

    found = read_keys(load_config().data_dir)
    if as_json:
        print_json([_told(key) for key in found])
        return
    table = Table("id", "name", "scopes", "made", "revoked", box=SIMPLE, pad_edge=False)
    for key in found:
        scopes = ", ".join(key.scopes)
        table.add_row(key.id, key.name, scopes, _date(key.created), _date(key.revoked))
    Console().print(table)


@keys.command("revoke")
def revoke(
    which: Annotated[str, typer.Argument(metavar="NAME|ID", help="As `resq keys list` prints it.")],
    as_json: Json = False,
) -> None:
    """Revoke a key: it is refused from now on, and its streams end within a second."""
    from service.config import load_config
    from service.keys import revoke_key

    key = revoke_key(load_config().data_dir, which)
    if as_json:
        print_json(_told(key))
    else:
        typer.echo(f"revoked {key.name} ({key.id})")


def _date(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M}" if when else ""


def _told(key: Key) -> dict[str, object]:
    return key.model_dump(mode="json", exclude={"salt", "hash"})
