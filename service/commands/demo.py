"""`resq demo`: a real server, a real WebSocket, one clip, and what came of it."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from resq_core.world import Street
from service.annotate import Prediction, annotate
from service.client import ClientStream, Result, connect
from service.commands.world import draw_clip
from service.config import load_config
from service.decoder import ClipFrame, open_clip
from service.encoder import VideoWriter
from service.launch import launch
from service.messages import Drop, Ended, Outputs, Stats, StreamStart
from service.plots import plot_frames

__all__ = ["demo"]

_QUALITY = 92
_SAMPLE_FRAMES = 150


def demo(
    clip: Annotated[Path | None, typer.Option(help="A video file; else a drawn street.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out/demo"),
    max_frames: Annotated[int, typer.Option(help="Stop after this many frames.")] = 300,
) -> None:
    """Stream a clip to a server of its own, and write what comes back.

    Where the data folder holds API keys, RESQ_KEY has to be one with the scope stream.
    """
    out.mkdir(parents=True, exist_ok=True)
    if clip is None:
        clip = out / "sample.mp4"
        draw_clip(clip, Street(seed=0, camera="static"), _SAMPLE_FRAMES)
    recorder = _Recorder(out)
    with launch() as server:
        typer.echo(f"server at {server.address}, streaming {clip.name}")
        asyncio.run(_stream(server.address, clip, max_frames, recorder))
    plot_frames(recorder.figures, out / "bops.png")
    typer.echo(f"wrote annotated.mp4, results.ndjson and bops.png to {out}")
    typer.echo(f"the live page: make serve, then http://127.0.0.1:{load_config().port}")
    typer.echo(json.dumps(recorder.summary()))


@dataclass(slots=True)
class _Recorder:
    """Frames on their way, and what is written of those that came back."""

    out: Path
    figures: list[dict[str, Any]] = field(default_factory=list)
    waiting: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    sent_at: dict[int, float] = field(default_factory=dict)
    drops: int = 0
    latency_ms: float = 0.0
    ended: Ended | None = None
    fps: float = 0.0

    def take(self, result: Result) -> NDArray[np.uint8]:
        """The frame that a result belongs to; notes its latency and figures."""
        seq = result.meta.seq
        self.latency_ms = 1000 * (time.perf_counter() - self.sent_at.pop(seq))
        figures = result.meta.model_dump(mode="json", exclude={"blobs"})
        self.figures.append(figures | {"latency_ms": round(self.latency_ms, 3)})
        return self.waiting.pop(seq)

    def summary(self) -> dict[str, Any]:
        """The demo's last line."""
        ended = self.ended
        assert ended is not None
        return {
            "frames": ended.received,
            "results": ended.results,
            "drops": ended.drops,
            "anchors": ended.anchors,
            "fps": round(self.fps, 2),
            "bop_saving": round(ended.saving, 4),
            "mean_bits": round(ended.mean_bits, 4),
        }


async def _stream(address: str, clip: Path, max_frames: int, recorder: _Recorder) -> None:
    options = StreamStart(mode="lossless", outputs=Outputs(mask="zlib", bit_map=True))
    with open_clip(clip) as video:
        if video.frames > max_frames:
            typer.echo(f"the clip has {video.frames} frames; the first {max_frames} are streamed")
        async with connect(address, options) as stream, asyncio.TaskGroup() as group:
            frames = islice(video, max_frames)
            group.create_task(_send(stream, frames, recorder))
            group.create_task(_receive(stream, video.fps, recorder))


async def _send(stream: ClientStream, frames: Iterator[ClipFrame], recorder: _Recorder) -> None:
    while (frame := await asyncio.to_thread(next, frames, None)) is not None:
        data = io.BytesIO()
        Image.fromarray(frame.image).save(data, "JPEG", quality=_QUALITY)
        recorder.waiting[frame.index] = frame.image
        recorder.sent_at[frame.index] = time.perf_counter()
        seq = await stream.send(data.getvalue(), frame.pts_us)
        assert seq == frame.index
    await stream.end()


async def _receive(stream: ClientStream, fps: float, recorder: _Recorder) -> None:
    started, recent = time.perf_counter(), _Recent()
    title = f"{stream.started.model} {stream.started.precision} T={stream.started.period}"
    video: VideoWriter | None = None
    with (recorder.out / "results.ndjson").open("w", encoding="utf-8") as lines:
        try:
            async for answer in stream:
                if isinstance(answer, Result):
                    picture = _draw(answer, recorder.take(answer), stream, title)
                    if video is None:
                        path = recorder.out / "annotated.mp4"
                        video = VideoWriter(path, fps, picture.shape[:2])
                    await asyncio.to_thread(video.write, picture)
                    lines.write(json.dumps(recorder.figures[-1]) + "\n")
                    recent.add(recorder.figures[-1])
                elif isinstance(answer, Drop):
                    recorder.drops += 1
                    recorder.waiting.pop(answer.seq)
                    lines.write(answer.model_dump_json() + "\n")
                elif isinstance(answer, Stats):
                    typer.echo(recent.line(answer))
                elif isinstance(answer, Ended):
                    recorder.ended = answer
                    recorder.fps = answer.results / (time.perf_counter() - started)
        finally:
            if video is not None:
                video.close()


def _draw(
    result: Result, image: NDArray[np.uint8], stream: ClientStream, title: str
) -> NDArray[np.uint8]:
    started, meta = stream.started, result.meta
    assert result.bit_map is not None
    prediction = Prediction(
        colours=started.palette,
        ids=result.mask,
        keypoints=meta.keypoints or (),
        skeleton=started.skeleton,
    )
    return annotate(image, prediction, result.bit_map, meta, title)


class _Recent:
    """Means over the results since the last printed line."""

    def __init__(self) -> None:
        self._figures: deque[dict[str, Any]] = deque(maxlen=1000)

    def add(self, figures: dict[str, Any]) -> None:
        self._figures.append(figures)

    def line(self, stats: Stats) -> str:
        n = max(len(self._figures), 1)
        bits = sum(f["mean_bits"] for f in self._figures) / n
        active = sum(f["active_fraction"] for f in self._figures) / n
        latency = sum(f["latency_ms"] for f in self._figures) / n
        saving = sum(f["bops"]["saving"] for f in self._figures) / n
        self._figures.clear()
        return (
            f"{stats.results:5d} results  {stats.fps:5.1f} fps  saving {saving:6.1%}  "
            f"{bits:4.2f} bits  {active:6.1%} active  {latency:5.0f} ms"
        )
