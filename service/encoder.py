"""Frames in, video out."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

__all__ = ["VideoWriter"]


class VideoWriter:
    """H.264 yuv420p MP4 that any browser plays. Use as a context manager.

    Args:
        target: a path (the index is put in front), or a BytesIO (the index is at the end).
        fps: frames per second, 1 to 240.
        size: (height, width) in pixels of every frame; odd sides are padded by one pixel.
        crf: quality, 0 (lossless) to 51.

    Raises:
        ValueError: fps, size or crf out of range.
    """

    def __init__(
        self, target: str | Path | BytesIO, fps: float, size: tuple[int, int], crf: int = 23
    ) -> None:
        if not 1 <= fps <= 240:
            raise ValueError(f"fps is {fps}; expected 1 to 240")
        if min(size) < 2 or max(size) > 8192:
            raise ValueError(f"size is {size}; expected (height, width), each 2 to 8192 pixels")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf is {crf}; expected 0 to 51")
        self._size = size
        self._pad = ((0, size[0] % 2), (0, size[1] % 2), (0, 0))
        in_memory = isinstance(target, BytesIO)  # putting the index in front reopens the file
        self._container = av.open(
            target if in_memory else str(target),
            "w",
            format="mp4",
            options={} if in_memory else {"movflags": "+faststart"},
        )
        rate = Fraction(fps).limit_denominator(1001)
        stream = self._container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = 1 / rate
        self._stream = stream
        self._written = 0
        self._closed = False

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append a frame, uint8 [H, W, 3] RGB of the writer's size.

        Raises:
            ValueError: another shape or type, or the writer is closed.
        """
        if self._closed:
            raise ValueError("the video is closed")
        if image.dtype != np.uint8 or image.shape != (*self._size, 3):
            raise ValueError(
                f"the frame is {image.dtype} {list(image.shape)}; expected uint8 {[*self._size, 3]}"
            )
        padded = np.pad(image, self._pad, mode="edge") if any(map(sum, self._pad)) else image
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        frame.pts = self._written
        self._written += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is held back and the index; more calls do nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
