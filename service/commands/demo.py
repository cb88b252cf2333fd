"""`resq demo`: a real server, a real WebSocket, one clip, and what came of it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from service.commands.shared import Json, people_read_stderr, print_json

__all__ = ["demo"]

_SAMPLE_FRAMES = 150


def demo(
    clip: Annotated[Path | None, typer.Option(help="A video file; else a drawn street.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out/demo"),
    max_frames: Annotated[int, typer.Option(help="Stop after this many frames.", min=1)] = 300,
    as_json: Json = False,
) -> None:
    """Stream a clip to a server of its own, and write what comes back.

    Where the data folder holds API keys, RESQ_KEY has to be one with the scope stream.
    """
    from resq_core.world import Street
    from service.client import Client
    from service.commands.stream import watch
    from service.commands.world import draw_clip
    from service.config import load_config
    from service.launch import launch
    from service.plots import plot_frames

    out.mkdir(parents=True, exist_ok=True)
    if clip is None:
        clip = out / "sample.mp4"
        draw_clip(clip, Street(seed=0, camera="static"), _SAMPLE_FRAMES)
    with people_read_stderr(as_json), launch() as server:
        typer.echo(f"server at {server.address}, streaming {clip.name}")
        with Client(server.address) as client, client.stream(clip, bit_map=True) as stream:
            summary = watch(stream, out, max_frames).summary(stream)
        wrote = ["annotated.mp4", "results.ndjson"]
        if find_spec("matplotlib") is not None:
            lines = (out / "results.ndjson").read_text("utf-8").splitlines()
            figures = [json.loads(line) for line in lines]
            plot_frames([f for f in figures if "bops" in f], out / "bops.png")
            wrote.append("bops.png")
        typer.echo(f"wrote {', '.join(wrote)} to {out}")
        typer.echo(f"the live page: make serve, then http://127.0.0.1:{load_config().port}")
    if as_json:
        print_json(summary | {"out": str(out)})
