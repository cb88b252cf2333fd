"""One clip through one stream: the loop that `resq run` and uploaded clips share."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_core import Stream
from resq_core.tasks import SegmentationTask
from service.annotate import annotate
from service.decoder import ClipFrame
from service.encoder import VideoWriter

__all__ = ["ClipSummary", "FrameRecord", "record_clip", "run_clip"]


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame's result.

    Attributes:
        frame: the decoded frame.
        ids: class ids, uint8 [H, W].
        bit_map: float32 [h, w], 0 to 8 bits.
        figures: what is written for the frame, ready for JSON.
    """

    frame: ClipFrame
    ids: NDArray[np.uint8]
    bit_map: NDArray[np.float32]
    figures: dict[str, Any]


@dataclass(slots=True)
class ClipSummary:
    """A clip's sums.

    Attributes:
        frames: decoded. results: finished. drops: frames without a result.
        anchors: keyframes among the results.
        fps: results per second of wall time, decoding and encoding included.
        bop_saving: against a dense W8A8 pass of every frame, policy cost included.
        mean_bits: mean activation bits.
    """

    frames: int = 0
    results: int = 0
    drops: int = 0
    anchors: int = 0
    fps: float = 0.0
    bop_saving: float = 0.0
    mean_bits: float = 0.0


def run_clip(
    stream: Stream, task: SegmentationTask, frames: Iterable[ClipFrame]
) -> Iterator[FrameRecord]:
    """Step a stream through a clip; a change of the picture's size forces a keyframe."""
    size: tuple[int, ...] | None = None
    for frame in frames:
        shape = frame.image.shape[:2]
        anchor = "size_changed" if size is not None and shape != size else None
        size = shape
        started = time.perf_counter()
        result = stream.step(task.preprocess(frame.image), bit_map=True, anchor=anchor)
        ids = task.postprocess(result.output, shape)
        spent = time.perf_counter() - started
        assert result.bit_map is not None
        bops = result.bops
        yield FrameRecord(
            frame,
            ids,
            result.bit_map.numpy(),
            {
                "index": frame.index,
                "pts_us": frame.pts_us,
                "is_anchor": result.is_anchor,
                "anchor_reason": result.reason,
                "infer_ms": round(1000 * spent, 3),
                "bops": {
                    "frame": bops.frame,
                    "policy": bops.policy,
                    "w8a8": bops.w8a8,
                    "fp32": bops.fp32,
                    "saving": bops.saving,
                },
                "mean_bits": result.mean_bits,
                "active_fraction": result.active_fraction,
                "clipped_fraction": result.clipped_fraction,
            },
        )


def record_clip(
    records: Iterable[FrameRecord],
    stream: Stream,
    task: SegmentationTask,
    title: str,
    fps: float,
    folder: Path,
) -> Iterator[ClipSummary]:
    """Write `annotated.mp4` and `results.ndjson` into a folder while the records come.

    Yields:
        The summary so far, after each frame: one object that is brought forward.
    """
    summary, started = ClipSummary(), time.perf_counter()
    totals = stream.totals
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lines = stack.enter_context((folder / "results.ndjson").open("w", encoding="utf-8"))
        video: VideoWriter | None = None
        size: tuple[int, int] | None = None
        for record in records:
            picture = _annotated(record, task, title)
            if video is None:
                size = picture.shape[0], picture.shape[1]
                path = folder / "annotated.mp4"
                video = stack.enter_context(VideoWriter(path, fps, size))
            if picture.shape[:2] == size:
                video.write(picture)
            lines.write(json.dumps(record.figures) + "\n")
            summary.frames += 1
            summary.results += 1
            summary.anchors = totals.anchors
            summary.fps = summary.results / (time.perf_counter() - started)
            summary.bop_saving = totals.saving
            summary.mean_bits = totals.mean_bits
            yield summary


def _annotated(record: FrameRecord, task: SegmentationTask, title: str) -> NDArray[np.uint8]:
    figures = record.figures
    return annotate(
        record.frame.image,
        record.ids,
        task.palette,
        record.bit_map,
        index=figures["index"],
        is_anchor=figures["is_anchor"],
        mean_bits=figures["mean_bits"],
        saving=figures["bops"]["saving"],
        active_fraction=figures["active_fraction"],
        title=title,
    )
