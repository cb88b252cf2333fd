"""`resq models`: published weights, and anybody's checkpoint in our own format."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from resq_core.errors import OptionError
from service.commands.shared import Json, bytes_bar, print_json

if TYPE_CHECKING:
    from resq_core import hub
    from resq_core.models import PublishedWeights

__all__ = ["models"]

models = typer.Typer(help="Published weights, and checkpoints of any origin.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="As `resq models list` prints it.")]


@models.command("list")
def list_(as_json: Json = False) -> None:
    """Published weights that resq can fetch; their figures are the publishers'."""
    from resq_core.models import catalogue

    entries = catalogue.entries()
    if as_json:
        print_json([entry.model_dump(mode="json") for entry in entries])
        return
    names = (Column(title, no_wrap=True) for title in ("name", "network"))  # to be copied
    others = (Column(title, overflow="fold") for title in ("data", "metric", "licence"))
    table = Table(*names, *others, box=SIMPLE, pad_edge=False)
    for entry in entries:
        what, value = next(iter(entry.metrics.items()))
        metric = f"{value:g} {what.split(',')[0]}"
        table.add_row(entry.name, entry.arch, entry.dataset, metric, _licence(entry))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(table)


@models.command("info")
def info(name: _Name, as_json: Json = False) -> None:
    """Everything that is known about published weights."""
    from resq_core.models import catalogue

    content = catalogue.entry(name).model_dump(mode="json")
    if as_json:
        print_json(content)
        return
    table = Table(Column(), Column(overflow="fold"), show_header=False)
    for key, value in content.items():
        table.add_row(key, _in_words(value))
    Console().print(table)


@models.command("pull")
def pull(
    name: _Name,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="For weights with a restrictive licence.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Download what is here already.")] = False,
    max_mib: Annotated[int, typer.Option(help="Largest download, MiB.", min=1)] = 4096,
    as_json: Json = False,
) -> None:
    """Download weights, verify them, and write them as safetensors with official names."""
    from resq_core import hub
    from resq_core.models import catalogue

    entry = catalogue.entry(name)
    console = Console(stderr=True)
    console.print(f"{name}: {_licence(entry)}. {entry.terms or ''}".strip(), highlight=False)
    limits = hub.Limits(bytes=max_mib << 20)
    with bytes_bar(console) as bar:
        fetching = bar.add_task(entry.file, total=entry.bytes)
        pulled = hub.pull(
            entry,
            accept_licence=accept_licence,
            again=again,
            limits=limits,
            progress=lambda done, total: bar.update(fetching, completed=done, total=total),
        )
        bar.update(fetching, completed=pulled.bytes, total=pulled.bytes)
    if pulled.checksum == "differs":
        console.print(
            f"sha256 is {pulled.sha256}, published is {entry.sha256}…; the publisher took that "
            "one before the last rewrite of the file, and every key and shape fits",
            highlight=False,
        )
    if as_json:
        print_json(_told(entry, pulled))
    else:
        typer.echo(str(pulled.weights))


def _told(entry: PublishedWeights, pulled: hub.Pulled) -> dict[str, Any]:
    """What `pull` prints as JSON."""
    shown = {"name", "arch", "options", "licence", "non_commercial", "terms"}
    return {**entry.model_dump(mode="json", include=shown), **asdict(pulled)}


@models.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Checkpoint: safetensors, or a torch file.")],
    arch: Annotated[str, typer.Option(help="A network that resq knows.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write; FILE.safetensors by default.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Of the network, NAME=VALUE; may be given again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rewrite a checkpoint of mmpose, mmseg or the networks' authors as safetensors."""
    from resq_core.models import convert

    target = out or file.with_suffix(".safetensors")
    if out is None and target.exists():
        raise OptionError(f"{target} is there already; expected --out with the file to write")
    if target.exists() and target.samefile(file):
        raise OptionError(f"--out is {target}, the checkpoint itself; expected another file")
    with Console(stderr=True).status(f"converting {file.name}"):
        done = convert(file, arch, target, dict(_parsed(text) for text in option or []))
    if as_json:
        print_json(asdict(done))
        return
    options = ", ".join(f"{key}={value}" for key, value in done.options.items())
    zeros = f"; zeros for {', '.join(done.zeros)}" if done.zeros else ""
    typer.echo(f"{done.path}: {arch} ({options or 'no options'}), {done.naming} names{zeros}")


def _parsed(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise OptionError(f"--option is {text!r}; expected NAME=VALUE, for example num_joints=16")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    return name, int(value) if value.isdecimal() and len(value) < 10 else value


def _licence(entry: PublishedWeights) -> str:
    return entry.licence + (", non-commercial use only" if entry.non_commercial else "")


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_in_words(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_in_words(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)
