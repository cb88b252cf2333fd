"""`resq stream`: a camera, a clip or pictures through a server that runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from resq_core.errors import OptionError
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
    frames_bar,
    model_names,
    people_read_stderr,
    print_json,
)

if TYPE_CHECKING:
    from rich.console import Group

    from service.client import Stream
    from service.client.options import Encoding
    from service.commands.stream_figures import StreamFigures

__all__ = ["stream", "watch"]

_Policy = Literal["paper", "relative"] | None
_Reference = Literal["keyframe", "previous", "tracking"] | None


def stream(
    source: Annotated[
        str, typer.Argument(help="A video file, a folder of pictures, webcam:0, or rtsp://….")
    ],
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
    live: Annotated[
        bool | None,
        typer.Option("--live/--lossless", help="Newest frame wins, or none is lost; else by kind."),
    ] = None,
    encoding: Annotated[str, typer.Option(help="How frames travel: jpeg, png, rgb.")] = "jpeg",
    fps: Annotated[float | None, typer.Option(help="Frames a second to keep room for.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many results.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for annotated.mp4 and results.ndjson.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Stream a source to a server and watch the figures; Ctrl+C ends a camera.

    Exit code 1: the server ended the stream.
    """
    from service.client import Client
    from service.client.options import StreamOptions
    from service.messages import parse_box

    if max_frames is not None and max_frames < 1:
        raise OptionError(f"max-frames is {max_frames}; expected 1 or more")
    options = StreamOptions(
        model=model,
        precision=precision,
        period=period,
        threshold=threshold,
        reference=cast("_Reference", reference),
        policy=cast("_Policy", policy),
        box=None if box is None else cast("tuple[float, float, float, float]", parse_box(box)),
        masks=masks,
        live=live,
        encoding=cast("Encoding", encoding),
        fps=fps,
        bit_map=out is not None,
    )
    with Client(url, key) as client, client.stream(source, **options) as opened:
        with people_read_stderr(as_json):
            figures = watch(opened, out, max_frames)
        if as_json:
            told = {"out": None if out is None else str(out)}
            print_json(figures.summary(opened) | told)
        elif out is not None:
            typer.echo(f"wrote annotated.mp4 and results.ndjson to {out}")


def watch(stream: Stream, out: Path | None, max_frames: int | None) -> StreamFigures:
    """Iterate an open stream with its figures on the terminal.

    Args:
        stream: that is open.
        out: a folder to write to, or None.
        max_frames: results after which to stop, or None.
    """
    from rich.console import Console, Group
    from rich.live import Live

    from service.commands.recording import Recording
    from service.commands.stream_figures import StreamFigures

    figures, console = StreamFigures(), Console()
    bar = frames_bar(console)
    total = min(filter(None, (stream.source.count, max_frames)), default=None)
    line = bar.add_task("", total=total)

    def render() -> Group:
        done = figures.results + (0 if max_frames else stream.drops.total())
        bar.update(line, completed=done)
        return Group(bar.get_renderable(), figures.table(stream))

    with ExitStack() as stack:
        stack.enter_context(Live(get_renderable=render, console=console))
        files = None if out is None else stack.enter_context(Recording(out, stream))
        try:
            for result in islice(stream, max_frames):
                with _undisturbed():  # a result is in all files and figures, or in none
                    figures.add(result)
                    if files is not None:
                        files.add(result)
        except KeyboardInterrupt:
            if not stream.source.live:
                raise
    if not console.is_terminal:  # there Live ends its last line
        console.line()
    return figures


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl+C waits for the end of the block, in the thread that it reaches."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked.is_set():
        raise KeyboardInterrupt
