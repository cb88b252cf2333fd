"""What comes back over a stream, as files."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from service.annotate import Prediction, annotate
from service.client import FrameResult, Stream
from service.encoder import VideoWriter
from service.pictures import Picture

__all__ = ["Recording"]


class Recording:
    """`results.ndjson`, a line per answer, and `annotated.mp4` in a folder. Use as a context
    manager. The stream has to carry bit maps.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, out: Path, stream: Stream) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._stream = out, stream
        self._stack = ExitStack()
        self._lines = self._stack.enter_context(
            (out / "results.ndjson").open("w", encoding="utf-8")
        )
        self._video: VideoWriter | None = None
        self._size = (0, 0)

    def add(self, result: FrameResult) -> None:
        """Write a result, and the drops before it."""
        self._write_drops()
        fields = result.meta.model_dump(mode="json", exclude={"blobs"})
        line = fields | {"latency_ms": round(result.latency_ms, 3)}
        self._lines.write(json.dumps(line) + "\n")
        picture = _draw(result)
        if self._video is None:
            self._size = picture.shape[0], picture.shape[1]
            path = self._out / "annotated.mp4"
            video = VideoWriter(path, self._stream.source.fps, self._size)
            self._video = self._stack.enter_context(video)
        if picture.shape[:2] != self._size:  # a video has one size
            height, width = self._size
            picture = np.asarray(Image.fromarray(picture).resize((width, height)))
        self._video.write(picture)

    def _write_drops(self) -> None:
        drops = self._stream.recent_drops
        while drops:
            self._lines.write(drops.popleft().model_dump_json() + "\n")

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            self._write_drops()


def _draw(result: FrameResult) -> Picture:
    started, bits = result.started, result.bit_map
    assert bits is not None
    prediction = Prediction(
        colours=started.palette,
        ids=result.mask,
        background=0 if started.task == "vos" else None,
        keypoints=result.meta.keypoints or (),
        skeleton=started.skeleton,
    )
    title = f"{started.model} {started.precision} T={started.period}"
    return annotate(result.frame, prediction, bits, result.meta, title)
