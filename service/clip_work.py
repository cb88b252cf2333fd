"""One clip through an engine, a frame at a time: results, annotated video, totals."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from service.annotate import Prediction, annotate
from service.clip_lanes import ClipLanes
from service.decoder import Clip, ClipError, ClipFrame
from service.decoder_process import RemoteClip
from service.durable import AppendFile, Mark, holds, put_in_place
from service.encoder import BitstreamWriter, bitstream_to_mp4
from service.engine import Engine, FrameError, StepOutput, StreamSpec, StreamTotals
from service.pictures import Picture
from service.results import pose_figures

__all__ = ["REPORT", "Checkpoint", "ClipWork", "cut_back", "kept_size", "results_whole", "tidy"]

REPORT = "report.json"
_LINES, _BITSTREAM, _VIDEO = "results.ndjson", "annotated.h264", "annotated.mp4"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a clip can go on: everything of the first `frames` frames is on the disk.

    Attributes:
        frames, results, drops: counts so far.
        lines, bitstream: of the results, and of the annotated video.
        canvas: (height, width) of that video, 0 before its first frame.
        backend: of the last result.
        seconds: worked so far.
        totals: sums so far.
        at: [x, y, width, height], where the pose of the next frame is looked for; None of others.
    """

    frames: int
    results: int
    drops: int
    lines: Mark
    bitstream: Mark
    canvas: tuple[int, int]
    backend: str | None
    seconds: float
    totals: StreamTotals
    at: tuple[float, float, float, float] | None = None


_START = Checkpoint(
    0, 0, 0, Mark(), Mark(), (0, 0), None, 0.0, StreamTotals(0, 0, 0, 0, 0, 0, 0.0, 0.0)
)


def cut_back(folder: Path, checkpoint: Checkpoint | None) -> None:
    """Cut off what a job wrote after its checkpoint, None for all of it.

    Raises:
        DamagedError: the files do not hold what the checkpoint says.
    """
    start = checkpoint or _START
    for name, mark in ((_LINES, start.lines), (_BITSTREAM, start.bitstream)):
        if mark.size or (folder / name).exists():
            AppendFile(folder / name, mark).close()


def results_whole(folder: Path, checkpoint: Checkpoint) -> bool:
    """Whether the results file still holds what it held at the checkpoint."""
    return holds(folder / _LINES, checkpoint.lines)


def kept_size(folder: Path) -> int:
    """Bytes of the files that stay of a finished clip."""
    names = (_LINES, _VIDEO, REPORT)
    return sum((folder / name).stat().st_size for name in names if (folder / name).exists())


def tidy(folder: Path) -> None:
    """Remove what nobody needs once a clip is finished, well or badly."""
    (folder / _BITSTREAM).unlink(missing_ok=True)
    (folder / f"{_VIDEO}.part").unlink(missing_ok=True)


class ClipWork:
    """Blocking; one thread at a time.

    `advance` until it says False, then `finish` and `close`; `tidy` the folder at last.

    With a checkpoint it goes on there: the clip is decoded from its start, which keeps frames and
    times what they were, but the first frame that is inferred is the checkpoint's, as an anchor
    (`restart`).

    `advance` decodes a frame and infers one; who wants to infer elsewhere than where it decodes
    calls `fetch` before.

    Args:
        engine: where the streams are opened, see `ClipLanes`.
        spec: the streams' options.
        clip: an open clip, which `close` closes too.
        folder: gets `results.ndjson`, and `annotated.mp4` at the end.
        checkpoint: of an earlier run in this folder.

    Attributes:
        checkpoint: the newest one, taken where an anchor period has ended; None before the first.
            Objects, whose memory is more of the past than the anchor, have none before the end,
            and neither has a pose once the clip has changed its size, which moves its box.
        latest: what the last `advance` inferred, None if nothing.
        totals: sums so far, those before the checkpoint included.

    Raises:
        EngineError: options that the engine refuses.
        ClipError: by `fetch` and `advance`: the clip cannot be read any further.
        DamagedError: the folder does not hold what the checkpoint says.
        WorkerLost: by `advance`: the state is gone; the checkpoint is not.
        OSError: by everything that writes: there is no room, for one.
    """

    def __init__(
        self,
        engine: Engine,
        spec: StreamSpec,
        clip: Clip | RemoteClip,
        folder: Path,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._clip = clip
        self._started = time.perf_counter()
        self._video: BitstreamWriter | None = None
        self._folder = folder
        self.checkpoint = checkpoint
        self.latest: StepOutput | None = None
        self._before = start = checkpoint or _START
        self.totals = start.totals
        self.frames, self.results, self.drops = start.frames, start.results, start.drops
        self._backend, self._canvas = start.backend, start.canvas
        with ExitStack() as stack:
            stack.callback(clip.close)
            self._card = engine.card(spec.model)
            self._lanes = ClipLanes(engine, replace(spec, at=start.at))
            stack.callback(self._lanes.close)
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = AppendFile(folder / _LINES, start.lines)
            stack.callback(self._lines.close)
            self._bitstream = AppendFile(folder / _BITSTREAM, start.bitstream)
            stack.callback(self._bitstream.close)
            self._stack = stack.pop_all()
        self._frames: Iterator[ClipFrame] = iter(self._clip)
        self._over = False
        self._broken: ClipError | None = None
        self._one_size = True
        self._size: tuple[int, ...] = ()  # of the first picture
        options = self._lanes.spec
        self._title = f"{options.model} {options.precision} T={options.period}"

    @property
    def fps(self) -> float:
        """Results per second of working time, decoding and writing included."""
        return self.results / max(self._seconds, 1e-9)

    @property
    def expected(self) -> int:
        """Frames that the container claims, 0 where it says nothing."""
        return self._clip.frames

    @property
    def _seconds(self) -> float:
        return self._before.seconds + time.perf_counter() - self._started

    def fetch(self) -> bool:
        """Decode one frame more, unless enough wait; False when there is nothing left to do."""
        if not self._over and not self._lanes.full:
            frame = self._next()
            self._over = frame is None
            if frame is not None and frame.index >= self._before.frames:
                self._lanes.put(frame)
        if self._broken is not None and not self._lanes:
            raise self._broken
        return not self._over or len(self._lanes) > 0

    def _next(self) -> ClipFrame | None:
        """The next frame of the clip; None at its end, and where it breaks off."""
        try:
            frame = next(self._frames, None)
        except ClipError as error:  # for when the frames before it are done
            self._broken = error
            return None
        if frame is not None:
            self._size = self._size or frame.image.shape
            self._one_size = self._one_size and frame.image.shape == self._size
        return frame

    def advance(self) -> bool:
        """Do the next frame; nothing where it was done already, or where more frames have to be
        decoded before any is waited for. False when there is none.
        """
        more, self.latest = self.fetch(), None
        if not self._lanes.full and not (self._over and len(self._lanes)):
            return more
        frame, infer = self._lanes.take()
        totals = self.totals
        try:
            out, seconds = infer()
        except FrameError as error:
            self.frames += 1
            self.drops += 1
            self._write({"index": frame.index, "pts_us": frame.pts_us, "drop": str(error)})
            return True
        if out.anchor_reason == "first_frame" and self._before.frames:
            out = replace(out, anchor_reason="restart")
        elif out.is_anchor and self.frames and self._can_go_on:
            self.checkpoint = self._mark(totals, out)
        self.frames += 1
        self.results += 1
        self.totals = totals.plus(_totals(out))
        self._backend, self.latest = out.backend, out
        self._write(_figures(frame, out, 1000 * seconds))
        self._draw(frame.image, out)
        return True

    def finish(self) -> dict[str, Any]:
        """Complete the files; the report. Call it after the last `advance`.

        Raises:
            OSError: they cannot be written.
        """
        self.checkpoint = self._mark(self.totals, None)
        bitstream, part = self._folder / _BITSTREAM, self._folder / f"{_VIDEO}.part"
        if self._video is not None or self._before.bitstream.size:
            bitstream_to_mp4(bitstream, part, self._clip.fps)
            put_in_place(part, self._folder / _VIDEO)
        return self._report()

    def _report(self) -> dict[str, Any]:
        """Totals; `backend` is that of the last result, None without any."""
        t, spec = self.totals, self._lanes.spec
        return {
            "model": spec.model,
            "precision": spec.precision,
            "period": spec.period,
            "threshold": spec.threshold,
            "policy": spec.policy,
            "reference": spec.reference,
            "backend": self._backend,
            "frames": self.frames,
            "results": self.results,
            "drops": self.drops,
            "damaged_packets": self._clip.damaged,
            "anchors": t.anchors,
            "bops": t.bops,
            "policy_bops": t.policy_bops,
            "bops_w8a8": t.bops_w8a8,
            "bops_fp32": t.bops_fp32,
            "bop_saving": t.saving,
            "mean_bits": t.mean_bits,
            "seconds": round(self._seconds, 3),
            "fps": self.fps,
        }

    def close(self) -> None:
        """Release the files and the stream; more calls do nothing."""
        self._stack.close()

    @property
    def _can_go_on(self) -> bool:
        """From an anchor without what came before it."""
        task = self._card.task
        return task == "segmentation" or (task == "pose" and self._one_size)

    def _mark(self, totals: StreamTotals, following: StepOutput | None) -> Checkpoint:
        """The checkpoint behind the frames so far, whose sums are given, before an anchor."""
        box = following and following.pose and following.pose.box
        lines, bitstream = self._lines.sync(), self._bitstream.sync()
        return Checkpoint(
            self.frames,
            self.results,
            self.drops,
            lines,
            bitstream,
            self._canvas,
            self._backend,
            self._seconds,
            totals,
            (box.x, box.y, box.width, box.height) if box else None,
        )

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.append((json.dumps(line) + "\n").encode())

    def _draw(self, image: Picture, out: StepOutput) -> None:
        assert out.bit_map is not None
        picture = annotate(image, self._prediction(out), out.bit_map, out, self._title)
        if self._video is None:
            if not any(self._canvas):
                self._canvas = picture.shape[0], picture.shape[1]
            self._video = BitstreamWriter(self._bitstream.append, self._clip.fps, self._canvas)
        if picture.shape[:2] != self._canvas:  # the clip changed its size; a video has one
            height, width = self._canvas
            picture = np.asarray(Image.fromarray(picture).resize((width, height)))
        self._video.write(picture)

    def _prediction(self, out: StepOutput) -> Prediction:
        joints = self._card.joint_set
        return Prediction(
            colours=self._card.colours,
            ids=out.ids,
            background=0 if self._card.task == "vos" else None,
            keypoints=() if out.pose is None else out.pose.keypoints.tolist(),
            skeleton=joints.skeleton if joints else (),
        )


def _totals(out: StepOutput) -> StreamTotals:
    """The sums of one frame."""
    b = out.bops
    return StreamTotals(
        1, int(out.is_anchor), b.frame, b.policy, b.w8a8, b.fp32, b.saving, out.mean_bits
    )


def _figures(frame: ClipFrame, out: StepOutput, infer_ms: float) -> dict[str, Any]:
    return {
        "index": frame.index,
        "pts_us": frame.pts_us,
        "is_anchor": out.is_anchor,
        "anchor_reason": out.anchor_reason,
        "infer_ms": round(infer_ms, 3),
        "bops": out.bops.model_dump(),
        "mean_bits": out.mean_bits,
        "active_fraction": out.active_fraction,
        "clipped_fraction": out.clipped_fraction,
        "backend": out.backend,
        **pose_figures(out),
    }
