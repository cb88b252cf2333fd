"""What frames cost on this machine: a server in a process of its own, under light load."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from resq_core.backends.machine import processor_name, usable_cores
from resq_core.world import Street
from service.client.load import Load, Step
from service.client.load_costs import Run, costs_of
from service.client.load_stream import LoadOptions
from service.commands.load_frames import drawn_clip, encoded_clip
from service.frame_costs import FrameCosts
from service.launch import launch
from service.messages import Started, StreamStart

__all__ = ["measure_costs"]

_FPS, _SECONDS = 10.0, 6.0


def measure_costs(
    start: StreamStart, clip: Path | None, say: Callable[[str], object]
) -> FrameCosts:
    """Start `resq serve` with this machine's settings, and send it one stream at 10 fps, of a clip,
    or of three in which nothing, about half and nearly all of the picture changes.

    Args:
        start: the stream's options; a lossless one loses no frame where the machine is slow.
        clip: a video file, or None.
        say: told what is being done.

    Raises:
        ClipError: the clip cannot be read.
        RemoteError: the server refused the options.
        InputError: there were too few frames to tell.
        RuntimeError: the server did not start.
    """
    if clip is not None:
        sources = {clip.name: encoded_clip(clip)}
    else:
        street = drawn_clip(Street())
        sources = {
            "a picture that stays": street[:1],
            "a street": street,
            "a street from a moving camera": drawn_clip(Street(camera="moving")),
        }
    say("a server starts")
    with (
        TemporaryDirectory() as folder,
        launch(data_dir=Path(folder), require_keys=False) as server,
    ):
        started, runs = asyncio.run(_measure(server.address, start, sources, say))
    costs = costs_of(started, runs)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    here = {"processor": processor_name(), "cores": usable_cores(), "memory_bytes": float(memory)}
    return costs.model_copy(update=here)


async def _measure(
    url: str,
    start: StreamStart,
    sources: Mapping[str, Sequence[bytes]],
    say: Callable[[str], object],
) -> tuple[Started, list[Run]]:
    runs: list[Run] = []
    for name, frames in sources.items():
        say(f"{name}: {_SECONDS:g} s at {_FPS:g} fps")
        async with Load(url, None, LoadOptions(start, _FPS, frames)) as load:
            row = await load.step(Step(1, _SECONDS))
            runs.append((load.counts, row))
            started = load.started
    return started, runs
