"""What can be streamed, as frames one after another: files, folders, cameras, arrays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resq_core.errors import InputError
from service.client.cameras import open_rtsp, open_webcam, until_lost
from service.decoder import ClipError, ClipFrame, open_clip
from service.pictures import Limits, Picture, decode_image

__all__ = ["Source", "SourceLike", "open_source"]

SourceLike = str | Path | Iterable[NDArray[np.uint8]]
"""A video file, a folder of pictures, `webcam:0`, `rtsp://…`, or pictures uint8 [H, W, 3] RGB."""

_WEBCAM = "webcam"
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_FPS = 25.0  # of what does not say


@dataclass(frozen=True, slots=True)
class Source:
    """An open source; `frames` is iterated once, then `close` is called, in the same thread.

    Attributes:
        name: what messages call it.
        frames: pictures uint8 [H, W, 3] RGB with their times.
        fps: frames per second, as far as it says.
        count: how many there are; 0 where that is not known.
        live: it does not wait, so what is not taken is lost.
        close: release it.
    """

    name: str
    frames: Iterable[ClipFrame]
    fps: float
    count: int
    live: bool
    close: Callable[[], None]


def open_source(what: SourceLike, live: bool | None = None) -> Source:
    """Open a source.

    Args:
        what: see `SourceLike`. Pictures may be any iterable; a generator may wait for each.
        live: None goes by the source: cameras are, all else is not.

    Raises:
        ClipError: nothing of this name, or it cannot be read.
        InputError: neither a name nor pictures; so does the source, for what is no picture.
    """
    if isinstance(what, (str, Path)):
        return _named(str(what), live)
    if not isinstance(what, Iterable):
        raise InputError(
            f"the source is a {type(what).__name__}; expected a path, webcam:0, an rtsp:// URL or "
            "pictures, uint8 [H, W, 3]"
        )
    count = len(what) if isinstance(what, Sized) else 0
    return Source("pictures", _pictures(what), _FPS, count, bool(live), lambda: None)


def _named(name: str, live: bool | None) -> Source:
    scheme, separator, rest = name.partition(":")
    if name == _WEBCAM or (scheme == _WEBCAM and separator):
        webcam = open_webcam(rest or "0")
        frames = until_lost(webcam, name)
        return Source(name, frames, webcam.fps, 0, live is not False, webcam.close)
    if "://" in name:
        if scheme != "rtsp":
            raise ClipError(
                f"{scheme}:// cannot be streamed from here; expected a path, webcam:0 or rtsp://. "
                "The server pulls other URLs itself: POST /v1/streams"
            )
        camera = open_rtsp(name)
        return Source("the camera", camera, camera.fps, 0, live is not False, camera.close)
    path = Path(name)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in _PICTURES)
        if not files:
            raise ClipError(f"the folder {path} holds no picture; expected PNG, JPEG or WebP files")
        return Source(path.name, _files(files), _FPS, len(files), bool(live), lambda: None)
    clip = open_clip(path)
    return Source(path.name, clip, clip.fps, clip.frames, bool(live), clip.close)


def _files(paths: list[Path]) -> Iterator[ClipFrame]:
    for index, path in enumerate(paths):
        try:
            image = decode_image(path.read_bytes(), Limits())
        except (OSError, ValueError) as error:
            raise ClipError(f"{path}: {error}") from error
        yield ClipFrame(index, round(index * 1e6 / _FPS), image)


def _pictures(pictures: Iterable[Picture]) -> Iterator[ClipFrame]:
    """Pictures, timed by when they come."""
    start: float | None = None
    for index, picture in enumerate(pictures):
        fits = isinstance(picture, np.ndarray) and picture.dtype == np.uint8
        if not fits or picture.ndim != 3 or picture.shape[2] != 3:
            kind = f"{getattr(picture, 'dtype', type(picture).__name__)} {list(np.shape(picture))}"
            raise InputError(f"picture {index} is {kind}; expected uint8 [H, W, 3], RGB")
        now = time.perf_counter()
        start = now if start is None else start
        yield ClipFrame(index, round((now - start) * 1e6), picture)
