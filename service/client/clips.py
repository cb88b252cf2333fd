"""Clips that the server works off: upload, follow, download."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Unpack
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from service.client.errors import OutcomeError, RemoteError
from service.client.models import ClipInfo
from service.client.options import ClipOptions, clip_query, read_mask
from service.client.rest import Rest

__all__ = ["AsyncClip", "AsyncClips", "ClipResult"]

_CHUNK = 256 * 1024
_PATIENCE = 30.0  # for a server that went away
_PAUSE = 0.5
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class ClipResult:
    """One frame of a clip.

    Attributes:
        index: place in the clip.
        pts_us: microseconds since its start.
        drop: why the frame has no result; None of all others, whose figures follow.
        is_anchor, saving, mean_bits, active_fraction: as in `FrameResult`; 0 of a drop.
        keypoints: of a pose, float32 [J, 3]: x, y in pixels and a score.
        fields: everything that the server says.
    """

    index: int
    pts_us: int
    drop: str | None
    is_anchor: bool
    saving: float
    mean_bits: float
    active_fraction: float
    keypoints: NDArray[np.float32] | None
    fields: dict[str, Any]


class AsyncClip:
    """A job on the server.

    Attributes:
        info: its state as it was last heard of.
    """

    def __init__(self, rest: Rest, info: ClipInfo) -> None:
        self._rest, self.info = rest, info
        self._path = f"/v1/clips/{info.id}"

    @property
    def id(self) -> str:
        """Its name, for `AsyncClips.get`."""
        return self.info.id

    async def refresh(self) -> ClipInfo:
        """Its state now. Raises RemoteError where it is gone."""
        self.info = _info(await self._rest.json("GET", self._path))
        return self.info

    async def results(self, follow: bool = True) -> AsyncIterator[ClipResult]:
        """Results in the order of frames; a connection that breaks is taken up again.

        Args:
            follow: wait for those to come, to the end; else those that are there.

        Raises:
            OutcomeError: the clip fails or is cancelled.
        """
        seen, alive = 0, time.monotonic()
        while True:
            try:
                async for number, line in self._lines(follow):
                    alive = time.monotonic()
                    if number >= seen:
                        seen = number + 1
                        yield _result(line)
                break
            except (httpx.TransportError, ConnectionError) as error:
                if time.monotonic() - alive > _PATIENCE:
                    raise RemoteError(f"the server went away: {error}") from error
                await asyncio.sleep(_PAUSE)
        if follow:
            await self._check()

    async def wait(self) -> ClipInfo:
        """Its state once it is done. Raises OutcomeError where it fails or is cancelled."""
        async for _ in self.results():
            pass
        return self.info

    async def report(self) -> dict[str, Any]:
        """Totals of the whole clip, once it is done."""
        await self.wait()
        found: dict[str, Any] = await self._rest.json("GET", f"{self._path}/report")
        return found

    async def download(self, path: str | Path, progress: Progress | None = None) -> Path:
        """Write the annotated video, once it is done; the file is there whole or not at all.

        Args:
            path: of the MP4.
            progress: called with bytes so far and in all.

        Raises:
            OutcomeError: the clip fails.
            RemoteError: the server breaks off.
            OSError: the file cannot be written.
        """
        await self.wait()
        path = Path(path)
        part = path.with_name(f"{path.name}.part")
        try:
            with part.open("wb") as file:
                await self._fetch(file, progress)
            part.replace(path)
        except httpx.TransportError as error:
            raise RemoteError(f"the download broke off: {error}") from error
        finally:
            part.unlink(missing_ok=True)
        return path

    async def cancel(self) -> None:
        """Stop it where it still runs, and remove everything of it from the server."""
        await self._rest.json("DELETE", self._path)

    async def _fetch(self, file: BinaryIO, progress: Progress | None) -> None:
        async with self._rest.stream("GET", f"{self._path}/video") as answer:
            total, done = int(answer.headers.get("content-length", 0)), 0
            async for chunk in answer.aiter_bytes(_CHUNK):
                await asyncio.to_thread(file.write, chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)

    async def _lines(self, follow: bool) -> AsyncIterator[tuple[int, str]]:
        query = {"follow": str(follow).lower()}
        async with self._rest.stream("GET", f"{self._path}/results", params=query) as answer:
            number = 0
            async for line in answer.aiter_lines():
                yield number, line
                number += 1

    async def _check(self) -> None:
        info = await self.refresh()
        if info.state != "done":
            why = f": {info.error}" if info.error else ""
            raise OutcomeError(f"the clip {info.id} is {info.state}{why}", info.state)


class AsyncClips:
    """The jobs of a server."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    async def upload(
        self,
        path: str | Path,
        progress: Progress | None = None,
        **options: Unpack[ClipOptions],
    ) -> AsyncClip:
        """Send a clip; returns when the server has it.

        Args:
            path: a video file.
            progress: called with bytes so far and in all.
            options: see `ClipOptions`.

        Raises:
            OSError: the file cannot be read.
            OptionError, InputError: bad options.
            RemoteError: the server refuses them, or has no room.
        """
        path, query, masks = Path(path), clip_query(options), options.get("masks")
        with await asyncio.to_thread(path.open, "rb") as file:
            counted = _Counted(file, path.stat().st_size, progress)
            if masks is None:
                request: dict[str, Any] = {
                    "content": _chunks(counted),
                    "headers": {"content-length": str(counted.size)},
                }
            else:
                png = read_mask(masks)
                request = {"files": {"clip": (path.name, counted), "masks": ("masks.png", png)}}
            answer = await self._rest.json("POST", "/v1/clips", params=query, **request)
        return AsyncClip(self._rest, _info(answer))

    async def list(self) -> tuple[AsyncClip, ...]:
        """All jobs, the oldest first."""
        answer = await self._rest.json("GET", "/v1/clips")
        return tuple(AsyncClip(self._rest, _info(item)) for item in answer["clips"])

    async def get(self, name: str) -> AsyncClip:
        """The job of an id. Raises RemoteError where there is none."""
        answer = await self._rest.json("GET", f"/v1/clips/{quote(name, safe='')}")
        return AsyncClip(self._rest, _info(answer))


class _Counted:
    """A file that tells how much of it was read."""

    def __init__(self, file: BinaryIO, size: int, progress: Progress | None) -> None:
        self._file, self.size, self._progress, self._done = file, size, progress, 0
        self.seek, self.tell, self.fileno = file.seek, file.tell, file.fileno

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._done += len(data)
        if self._progress is not None:
            self._progress(self._done, self.size)
        return data


async def _chunks(file: _Counted) -> AsyncIterator[bytes]:
    while data := await asyncio.to_thread(file.read, _CHUNK):
        yield data


def _info(answer: Any) -> ClipInfo:
    try:
        return ClipInfo.model_validate(answer)
    except ValueError as error:
        raise RemoteError("the server describes its clip in a way that is not known") from error


def _result(line: str) -> ClipResult:
    try:
        fields = json.loads(line)
        points = fields.get("keypoints")
        return ClipResult(
            index=fields["index"],
            pts_us=fields["pts_us"],
            drop=fields.get("drop"),
            is_anchor=fields.get("is_anchor", False),
            saving=fields["bops"]["saving"] if "bops" in fields else 0.0,
            mean_bits=fields.get("mean_bits", 0.0),
            active_fraction=fields.get("active_fraction", 0.0),
            keypoints=None if points is None else np.array(points, np.float32),
            fields=fields,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RemoteError(f"the server sent a line that is no result: {line[:80]!r}") from error
