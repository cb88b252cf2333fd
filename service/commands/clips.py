"""`resq clips`: jobs on a server that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from service import DEFAULT_URL
from service.commands.shared import (
    Box,
    Json,
    Key,
    Masks,
    Period,
    Policy,
    PrecisionText,
    Reference,
    Threshold,
    Url,
    bytes_bar,
    frames_bar,
    model_names,
    print_json,
)

if TYPE_CHECKING:
    from service.client import Client, Clip, ClipResult
    from service.client.clips import Progress
    from service.client.options import ClipOptions

__all__ = ["clips"]

clips = typer.Typer(help="Whole clips, worked off by a server that runs.", no_args_is_help=True)

_Id = Annotated[str, typer.Argument(metavar="ID", help="As `resq clips list` prints it.")]


@clips.command("list")
def list_(url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Every job that the server knows, the oldest first."""
    with _client(url, key) as client:
        found = client.clips.list()
    if as_json:
        print_json([clip.info.model_dump(mode="json") for clip in found])
        return
    id_column = Column("id", no_wrap=True)
    table = Table(
        id_column, "state", "model", "results", "done", "made", box=SIMPLE, pad_edge=False
    )
    for clip in found:
        table.add_row(*_row(clip))
    Console().print(table if found else "no clips; `resq clips upload CLIP.mp4` sends one")


@clips.command("upload")
def upload(
    clip: Annotated[Path, typer.Argument(help="A video file.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    model: Annotated[
        str | None, typer.Option(help="Else the server's.", autocompletion=model_names)
    ] = None,
    precision: PrecisionText = None,
    period: Period = None,
    threshold: Threshold = None,
    reference: Reference = None,
    policy: Policy = None,
    box: Box = None,
    masks: Masks = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait until it is done.")] = False,
    as_json: Json = False,
) -> None:
    """Send a clip; prints the job's id. Exit code 1 with --follow: the clip failed."""
    from service.messages import parse_box

    options = cast(
        "ClipOptions",
        {
            "model": model,
            "precision": precision,
            "period": period,
            "threshold": threshold,
            "reference": reference,
            "policy": policy,
            "box": None if box is None else tuple(parse_box(box)),
            "masks": masks,
        },
    )
    with _client(url, key) as client:
        with _transfer(clip.name) as progress:
            job = client.clips.upload(clip, progress, **options)
        if follow:
            _follow(job)
            report = job.report()
    if as_json:
        print_json(job.info.model_dump(mode="json") | ({"report": report} if follow else {}))
        return
    typer.echo(job.id)
    if follow:
        typer.echo(
            f"{report['results']} frames, {report['anchors']} keyframes, "
            f"BOP saving {report['bop_saving']:.1%}; resq clips download {job.id}"
        )


@clips.command("show")
def show(name: _Id, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """One job."""
    with _client(url, key) as client:
        info = client.clips.get(name).info
    if as_json:
        print_json(info.model_dump(mode="json"))
        return
    table = Table(Column(), Column(overflow="fold"), show_header=False, box=None)
    for field, value in info.model_dump(mode="json").items():
        shown = _time(value) if field == "created" else "–" if value is None else str(value)
        table.add_row(field, shown)
    Console(highlight=False).print(table)


@clips.command("results")
def results(
    name: _Id,
    url: Url = DEFAULT_URL,
    key: Key = None,
    follow: Annotated[bool, typer.Option("--follow", help="To the end of the clip.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line each.")] = False,
) -> None:
    """Results so far, a line per frame. Exit code 1 with --follow: the clip failed."""
    with _client(url, key) as client:
        for result in client.clips.get(name).results(follow):
            typer.echo(json.dumps(result.fields) if as_json else _line(result))


@clips.command("download")
def download(
    name: _Id,
    url: Url = DEFAULT_URL,
    key: Key = None,
    out: Annotated[Path | None, typer.Option(help="The file; ID.mp4 by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write the annotated video, once the clip is done. Exit code 1: the clip failed."""
    out = out or Path(f"{Path(name).name}.mp4")
    with _client(url, key) as client:
        job = client.clips.get(name)
        _follow(job)
        with _transfer(out.name) as progress:
            path = job.download(out, progress)
    if as_json:
        print_json({"id": job.id, "path": str(path), "bytes": path.stat().st_size})
    else:
        typer.echo(str(path))


@clips.command("delete")
def delete(
    names: Annotated[list[str], typer.Argument(metavar="ID...", help="One or more.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Stop jobs that still run, and remove everything of them from the server."""
    with _client(url, key) as client:
        for name in names:
            client.clips.get(name).cancel()
            if not as_json:
                typer.echo(f"deleted {name}")
    if as_json:
        print_json({"deleted": names})


def _client(url: str, key: str | None) -> Client:
    from service.client import Client

    return Client(url, key)


def _follow(job: Clip) -> None:
    """Wait for a job, with a bar of its frames."""
    with frames_bar(Console(stderr=True)) as bar:
        line = bar.add_task(job.id, total=None)
        for result in job.results():
            if result.index % 8 == 0 and job.refresh().progress:
                frames = (result.index + 1) / (job.info.progress or 1)
                bar.update(line, total=max(round(frames), result.index + 1))
            bar.update(line, completed=result.index + 1, description=f"{result.saving:.0%} saved")
        bar.update(line, total=job.info.results, completed=job.info.results)


@contextmanager
def _transfer(name: str) -> Iterator[Progress]:
    """A bar for bytes that travel."""
    with bytes_bar(Console(stderr=True)) as bar:
        line = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(line, completed=done, total=total or None)


def _row(clip: Clip) -> tuple[str, ...]:
    info = clip.info
    done = "" if info.progress is None else f"{info.progress:.0%}"
    state = info.state if info.error is None else f"{info.state}: {info.error}"
    return info.id, state, info.model, str(info.results), done, _time(info.created)


def _time(created: float) -> str:
    return f"{datetime.fromtimestamp(created):%Y-%m-%d %H:%M:%S}"


def _line(result: ClipResult) -> str:
    if result.drop is not None:
        return f"{result.index:6d}  dropped: {result.drop}"
    kind = "keyframe" if result.is_anchor else "residual"
    return (
        f"{result.index:6d}  {kind}  saving {result.saving:6.1%}  {result.mean_bits:4.2f} bits  "
        f"{result.active_fraction:6.1%} active"
    )
