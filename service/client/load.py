"""Many streams on one server at once, and what becomes of their frames."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from resq_core.errors import OptionError
from service.client.address import Address
from service.client.load_figures import Count, summarize
from service.client.load_stream import END_SECONDS, LoadOptions, LoadStream
from service.client.rest import Rest
from service.client.server_figures import ServerFigures
from service.messages import Started
from service.percentiles import percentiles

__all__ = ["Load", "Step"]

_AT_ONCE = 16  # streams that are opened at the same time
_WARM_SECONDS = 2.0  # from the last stream's first frame until frames count
_TICK = 0.1
_MAX_STREAMS, _MAX_SECONDS = 10_000, 3600.0


@dataclass(frozen=True, slots=True)
class Step:
    """So many streams at once, for so many seconds. Raises OptionError out of range."""

    streams: int
    seconds: float

    def __post_init__(self) -> None:
        if not 1 <= self.streams <= _MAX_STREAMS:
            raise OptionError(f"streams is {self.streams}; expected 1 to {_MAX_STREAMS:,}")
        if not 0 < self.seconds <= _MAX_SECONDS:
            raise OptionError(
                f"seconds is {self.seconds:g}; expected more than 0 and at most {_MAX_SECONDS:g}"
            )


class Load:
    """A load on one server. Use as an async context manager; its end ends the streams.

    Args:
        url, key: of the server, as `AsyncClient` takes them.
        options: of every stream.

    Attributes:
        url: of the server.
        problems: what did not add up, complete after the end.
        counts: of the last step, one for each stream.

    Raises:
        OptionError: the URL is none.
    """

    def __init__(self, url: str, key: str | None, options: LoadOptions) -> None:
        self.url, self._key, self._options = url, key, options
        self._rest = Rest(Address.of(url, key), 10.0)
        self._streams: list[LoadStream] = []
        self._opened = 0
        self.problems: list[str] = []
        self.counts: list[Count] = []

    @property
    def started(self) -> Started:
        """The options in force, of the first stream. RuntimeError before one was let in."""
        found = self._streams[0].started if self._streams else None
        if found is None:
            raise RuntimeError("no stream was let in yet")
        return found

    async def step(
        self, step: Step, progress: Callable[[float], object] = lambda _: None
    ) -> dict[str, Any]:
        """Bring the load to so many streams, let it run, and say what came of it.

        Streams of earlier steps go on; those that were refused or lost are tried anew.

        Args:
            step: how many, and for how long.
            progress: told the seconds that have passed.

        Returns:
            Figures as of `summarize`, of the frames that were due in that time, and
            `unanswered`: frames without an answer ten seconds later; `lost`: streams that ended
            meanwhile, by reason; `late_ms`: how late this program was with a frame (99th
            percentile): where that is much of a frame's time, it measured itself; `server`: cores
            that the server used, and its memory, where it tells.

        Raises:
            UnreachableError: nothing answers.
            RemoteError: not one stream was let in; the server's reason.
        """
        refused = await self._open(step.streams)
        if not self._streams:
            raise refused[0]
        await asyncio.sleep(_WARM_SECONDS)
        before = await ServerFigures.read(self._rest)
        start, counts = time.perf_counter(), [Count() for _ in self._streams]
        for stream, count in zip(self._streams, counts, strict=True):
            stream.count, stream.late = count, []
        while (passed := time.perf_counter() - start) < step.seconds:
            progress(passed)
            await asyncio.sleep(min(_TICK, step.seconds - passed))
        progress(step.seconds)
        after, seconds = await ServerFigures.read(self._rest), time.perf_counter() - start
        late = [ms for stream in self._streams for ms in stream.late]
        for stream, count in zip(self._streams, counts, strict=True):
            stream.count, stream.late, count.seconds = Count(), [], seconds
        await self._settle(counts)
        lost = Counter(str(s.failure or "the server ended it") for s in self._streams if s.over)
        self.counts = counts
        counts = counts + [Count(refused=_reason(error)) for error in refused]
        return summarize(counts) | {
            "seconds": round(seconds, 3),
            "unanswered": sum(count.open for count in counts),
            "lost": dict(lost),
            "late_ms": percentiles(late).get("p99"),
            "server": _server(before, after),
        }

    async def _open(self, wanted: int) -> list[Exception]:
        """Open what is missing; why streams were refused."""
        self._streams = [stream for stream in self._streams if not stream.over]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one() -> LoadStream:
            async with gate:
                self._opened += 1
                stream = LoadStream(self.url, self._key, self._options, self._opened - 1)
                try:
                    await stream.ready.wait()
                except BaseException:
                    await stream.cancel()
                    raise
                return stream

        missing = max(0, wanted - len(self._streams))
        found = await asyncio.gather(*(one() for _ in range(missing)))
        self._streams += [stream for stream in found if stream.admitted]
        return [stream.failure for stream in found if stream.failure is not None]

    async def _settle(self, counts: Sequence[Count]) -> None:
        """Wait for the answers to what was sent."""
        end = time.perf_counter() + END_SECONDS
        pairs = list(zip(self._streams, counts, strict=True))
        while time.perf_counter() < end:
            if not any(count.open for stream, count in pairs if not stream.over):
                return
            await asyncio.sleep(_TICK)

    async def __aenter__(self) -> Load:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                ended = await asyncio.gather(*(s.end() for s in self._streams if not s.over))
                self.problems += [problem for problems in ended for problem in problems]
        finally:
            await asyncio.gather(*(stream.cancel() for stream in self._streams))
            await self._rest.close()


def _reason(error: Exception) -> tuple[str, str]:
    return getattr(error, "code", None) or type(error).__name__, str(error)


def _server(before: ServerFigures | None, after: ServerFigures | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    spent = after.cpu_seconds - before.cpu_seconds
    return {
        "anchor_cpu_seconds": after.anchor_seconds - before.anchor_seconds,
        "residual_cpu_seconds": after.residual_seconds - before.residual_seconds,
        "cores": round(spent / (after.at - before.at), 3),
        "server_bytes": round(after.server_bytes),
        "decoder_bytes": round(after.decoder_bytes / max(after.decoders, 1)),
        "state_bytes": round(after.state_bytes / max(after.streams, 1)),
        "all_state_bytes": round(after.state_bytes),
    }
