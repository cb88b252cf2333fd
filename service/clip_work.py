"""One clip through one engine stream, a frame at a time: results, annotated video, totals."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from service.annotate import Prediction, annotate
from service.decoder import Clip, ClipFrame
from service.decoder_process import RemoteClip
from service.encoder import VideoWriter
from service.engine import Engine, FrameError, StepOutput, StreamSpec, StreamTotals
from service.pictures import Picture
from service.results import pose_figures

__all__ = ["ClipWork"]


class ClipWork:
    """Blocking; one thread at a time. `advance` until it says False, then `close`.

    `advance` decodes a frame and infers it; who wants to infer elsewhere than where it decodes
    calls `fetch` before.

    Args:
        engine: where the stream is opened.
        spec: the stream's options.
        clip: an open clip, which `close` closes too.
        folder: gets `results.ndjson` and `annotated.mp4`.

    Raises:
        EngineError: options that the engine refuses.
        ClipError: by `fetch` and `advance`: the clip cannot be read any further.
    """

    def __init__(
        self, engine: Engine, spec: StreamSpec, clip: Clip | RemoteClip, folder: Path
    ) -> None:
        self._clip = clip
        self._started = time.perf_counter()
        self._canvas = (0, 0)
        self._video: VideoWriter | None = None
        self._folder = folder
        self.frames = self.results = self.drops = 0
        self._backend: str | None = None
        with ExitStack() as stack:
            stack.callback(clip.close)
            self._card = engine.card(spec.model)
            self._stream = engine.open(spec)
            stack.callback(self._stream.close)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "results.ndjson"
            self._lines = stack.enter_context(path.open("w", encoding="utf-8", buffering=1))
            self._stack = stack.pop_all()
        self._frames: Iterator[ClipFrame] = iter(self._clip)
        self._fetched: ClipFrame | None = None
        options = self._stream.spec
        self._title = f"{options.model} {options.precision} T={options.period}"

    @property
    def totals(self) -> StreamTotals:
        """The stream's sums so far."""
        return self._stream.totals

    @property
    def fps(self) -> float:
        """Results per second of wall time, decoding and writing included."""
        return self.results / max(time.perf_counter() - self._started, 1e-9)

    @property
    def expected(self) -> int:
        """Frames that the container claims, 0 where it says nothing."""
        return self._clip.frames

    def fetch(self) -> bool:
        """Decode the next frame unless that is done; False when there is none."""
        if self._fetched is None:
            self._fetched = next(self._frames, None)
        return self._fetched is not None

    def advance(self) -> bool:
        """Do the next frame; False when there is none."""
        self.fetch()
        frame, self._fetched = self._fetched, None
        if frame is None:
            return False
        self.frames += 1
        start = time.perf_counter()
        try:
            out = self._stream.step(frame.image, True, False, None)
        except FrameError as error:
            self.drops += 1
            self._write({"index": frame.index, "pts_us": frame.pts_us, "drop": str(error)})
            return True
        self.results += 1
        self._backend = out.backend
        self._write(_figures(frame, out, 1000 * (time.perf_counter() - start)))
        self._draw(frame.image, out)
        return True

    def report(self) -> dict[str, Any]:
        """Totals so far; `backend` is that of the last result, None without any."""
        t, spec = self._stream.totals, self._stream.spec
        seconds = time.perf_counter() - self._started
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
            "seconds": round(seconds, 3),
            "fps": self.fps,
        }

    def close(self) -> None:
        """Finish the files and free the stream; more calls do nothing."""
        self._stack.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.write(json.dumps(line) + "\n")

    def _draw(self, image: Picture, out: StepOutput) -> None:
        assert out.bit_map is not None
        picture = annotate(image, self._prediction(out), out.bit_map, out, self._title)
        if self._video is None:
            path, size = self._folder / "annotated.mp4", (picture.shape[0], picture.shape[1])
            self._video = self._stack.enter_context(VideoWriter(path, self._clip.fps, size))
            self._canvas = size
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
