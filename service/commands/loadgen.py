"""`resq loadgen`: many streams on a server that runs, and what becomes of their frames."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from resq_core.errors import InputError, OptionError
from service import DEFAULT_URL
from service.commands.shared import (
    Json,
    Key,
    Period,
    PrecisionText,
    Threshold,
    model_names,
    print_json,
)

if TYPE_CHECKING:
    from service.client.load import Load, Step
    from service.client.load_stream import LoadOptions
    from service.frame_costs import FrameCosts

__all__ = ["loadgen"]

_MAX_STEPS = 1000
_LATE = 0.25  # of the time between two frames: beyond, the sender is told to be slow


def loadgen(
    url: Annotated[str, typer.Argument(help="Of the server.")] = DEFAULT_URL,
    key: Key = None,
    clip: Annotated[Path | None, typer.Option(help="A video file; else a street is drawn.")] = None,
    streams: Annotated[
        str, typer.Option(help="How many at once, step by step: 8, 1..8, or 1,2,4..8.")
    ] = "1",
    seconds: Annotated[float, typer.Option(help="Of each step.")] = 10.0,
    fps: Annotated[float, typer.Option(help="Frames a second of each stream.")] = 10.0,
    live: Annotated[
        bool, typer.Option("--live/--lossless", help="Newest frame wins, or none is lost.")
    ] = True,
    deadline_ms: Annotated[
        int | None, typer.Option(help="Age at which the server gives a frame up.")
    ] = None,
    declare: Annotated[
        bool, typer.Option("--declare", help="Tell the server the rate: it keeps room, or refuses.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Else the server's.", autocompletion=model_names)
    ] = None,
    precision: PrecisionText = None,
    period: Period = None,
    threshold: Threshold = None,
    as_json: Json = False,
) -> None:
    """Put a server under load: so many streams of a clip at a rate, and more with every step.

    Exit code 1: frames were not accounted for, or streams were lost.
    """
    from service.client.load import Step
    from service.client.load_stream import LoadOptions
    from service.client.options import StreamOptions, stream_start
    from service.commands.load_frames import encoded_clip

    options = StreamOptions(
        model=model,
        precision=precision,
        period=period,
        threshold=threshold,
        deadline_ms=deadline_ms,
        fps=fps if declare else None,
    )
    start = stream_start(options, live)
    steps = [Step(count, seconds) for count in parse_steps(streams)]
    frames = encoded_clip(clip)
    load = LoadOptions(start, fps, frames)
    console = Console(stderr=as_json)
    report = asyncio.run(_run(url, key, load, steps, console))
    report = {"clip": clip.name if clip is not None else "a drawn street"} | report
    if as_json:
        print_json(report)
    else:
        console.print(_table(report))
        for words in _notes(report):
            console.print(words)
    if report["problems"] or any(row["lost"] or row["unanswered"] for row in report["steps"]):
        raise typer.Exit(1)


def parse_steps(text: str) -> list[int]:
    """Numbers of streams, of `8`, `1..8` or `1,2,4..8`.

    Raises:
        OptionError: it is something else, or they do not rise.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise OptionError(f"streams is {text!r}; expected 8, 1..8 or 1,2,4..8")
        low, high = int(first), int(last or first)
        if high - low >= _MAX_STEPS:
            raise OptionError(f"streams is {text!r}; expected {_MAX_STEPS:,} steps at most")
        found += range(low, high + 1)
    if found != sorted(set(found)) or not 1 <= len(found) <= _MAX_STEPS:
        raise OptionError(f"streams is {text!r}; expected numbers that rise: streams go on")
    return found


async def _run(
    url: str, key: str | None, options: LoadOptions, steps: Sequence[Step], console: Console
) -> dict[str, Any]:
    """The steps one after another; the report, as JSON holds it."""
    from service.client.load import Load

    rows: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("opening", total=sum(step.seconds for step in steps))
        async with Load(url, key, options) as load:
            passed = 0.0
            for step in steps:
                bar.update(task, description=f"{step.streams} streams")

                def progress(seconds: float, before: float = passed) -> None:
                    bar.update(task, completed=before + seconds)

                rows.append(await load.step(step, progress))
                passed += step.seconds
                started = load.started
                if len(rows) == 1:
                    costs = _costs(load, rows[0])
    return {
        "url": url,
        "model": started.model,
        "precision": started.precision,
        "period": started.period,
        "threshold": started.threshold,
        "mode": started.mode,
        "fps": options.fps,
        "deadline_ms": started.deadline_ms,
        "steps": rows,
        "problems": load.problems,
        "costs": None if costs is None else costs.model_dump(),
    }


def _costs(load: Load, row: dict[str, Any]) -> FrameCosts | None:
    """What `resq plan` goes by; None where frames were too few for it."""
    from service.client.load_costs import costs_of

    try:
        return costs_of(load.started, [(load.counts, row)])
    except InputError:
        return None


def _table(report: dict[str, Any]) -> Table:
    title = (
        f"{report['model']} {report['precision']} T={report['period']}, {report['mode']}, "
        f"{report['clip']} at {report['fps']:g} fps"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    columns = ("streams", "fps each", "results", "dropped", "ms p50", "p95", "p99", "BOPs saved")
    for name in (*columns, "cores"):
        table.add_column(name, no_wrap=name != "dropped")
    for row in report["steps"]:
        ms, server = row["latency_ms"], row["server"]
        told = ", ".join(f"{n} {reason}" for reason, n in sorted(row["drops"].items()) if n)
        refused = "".join(f"; {n} refused: {why}" for why, n in row["refused"].items())
        table.add_row(
            f"{row['admitted']}" + (f" of {row['clients']}" if row["refused"] else ""),
            f"{row['results_per_second'] / max(row['admitted'], 1):.1f}",
            f"{row['results']} of {row['sent']}",
            (told or "none") + refused,
            *(f"{ms[name]:.0f}" if ms else "" for name in ("p50", "p95", "p99")),
            f"{row['saving']:.1%}",
            f"{server['cores']:.2f}" if server else "not told",
        )
    return table


def _notes(report: dict[str, Any]) -> list[str]:
    """What the table does not say by itself."""
    words = [f"problem: {problem}" for problem in report["problems"]]
    for row in report["steps"]:
        at = f"at {row['clients']} streams"
        words += [f"{at}, {count} were lost: {why}" for why, count in row["lost"].items()]
        if row["unanswered"]:
            words.append(f"{at}, {row['unanswered']} frames had no answer after ten seconds")
        if row["late_ms"] is not None and row["late_ms"] > _LATE * 1000 / report["fps"]:
            words.append(
                f"{at}, this program itself was up to {row['late_ms']:.0f} ms late with its frames "
                "(99 %): the figures are also its own; more machines that send would show more"
            )
    return words
