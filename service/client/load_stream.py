"""One stream of a load: frames of a clip at a rate, and a count of what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from resq_core.errors import OptionError
from service.client.connection import ClientStream, Result, connect
from service.client.errors import RemoteError
from service.client.load_figures import Count
from service.messages import MAX_FPS, Drop, Ended, Started, StreamStart

__all__ = ["END_SECONDS", "LoadOptions", "LoadStream"]

END_SECONDS = 10.0
"""For how long a stream may take to answer its last frames."""
_PHASE = 0.618034  # of a frame: streams begin apart, so that their frames do not come together


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What every stream of a load does.

    Attributes:
        start: what it asks the server for.
        fps: frames per second that it sends; a lossless stream that gets no credit falls behind.
        frames: encoded pictures, at least one; each stream sends them forth and back, from another
            one on, so that nothing jumps.

    Raises:
        OptionError: no frames, or no such rate.
    """

    start: StreamStart
    fps: float
    frames: Sequence[bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.frames:
            raise OptionError("there are no frames to send; expected one at least")
        if not 0 < self.fps <= MAX_FPS:
            raise OptionError(f"fps is {self.fps:g}; expected more than 0 and at most {MAX_FPS}")

    def frame(self, index: int) -> bytes:
        """What is sent as the frame of this number."""
        last = len(self.frames) - 1
        place = index % (2 * last) if last else 0
        return self.frames[place if place <= last else 2 * last - place]


class LoadStream:
    """One stream, from its first frame to its end, in a task of its own.

    A frame belongs to the count that was in force when it was due; the first one, for which a
    server loads and plans, belongs to none.

    Args:
        url, key: of the server.
        options: what it does.
        number: its own; streams with other numbers begin with other frames, at other moments.

    Attributes:
        count: in force now.
        late: by how many milliseconds frames were sent later than they were due.
        started: the options in force; None before.
        failure: why it was refused, or lost its connection.
        ready: its first frame was answered, or it failed; over: it has ended.
    """

    def __init__(self, url: str, key: str | None, options: LoadOptions, number: int) -> None:
        self._url, self._key, self._options, self._number = url, key, options, number
        self._live = options.start.mode == "live"
        self.count = Count()
        self.late: list[float] = []
        self.started: Started | None = None
        self.failure: Exception | None = None
        self.ready, self.over = asyncio.Event(), False
        self._ending = asyncio.Event()
        self._sent: dict[int, tuple[Count, float]] = {}
        self._totals = Counter[str]()
        self._task = asyncio.create_task(self._run())

    @property
    def admitted(self) -> bool:
        """It is open, and its first frame was answered."""
        return self.ready.is_set() and self.failure is None and not self.over

    async def end(self) -> list[str]:
        """Have the rest answered, and the stream ended; what does not add up."""
        self._ending.set()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._task
        except TimeoutError:
            return [f"stream {self._number} did not end within {END_SECONDS:g} s"]
        return self.count.problems

    async def cancel(self) -> None:
        """Break off; more calls do nothing."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with connect(self._url, self._options.start, self._key) as wire:
                self.started = wire.started
                await self._first(wire)
                self.ready.set()
                sending = asyncio.create_task(self._send(wire))
                try:
                    await self._listen(wire)
                finally:
                    sending.cancel()
                    (outcome,) = await asyncio.gather(sending, return_exceptions=True)
                if isinstance(outcome, Exception) and not isinstance(outcome, RemoteError):
                    raise outcome
        except Exception as error:  # whoever leads the load says what became of it
            self.failure = error
        finally:
            self.over = True
            self.ready.set()

    async def _first(self, wire: ClientStream) -> None:
        await self._put(wire, 0, Count(), time.perf_counter())
        while self._sent:
            self._take(await wire.receive())

    async def _send(self, wire: ClientStream) -> None:
        fps, index = self._options.fps, 0
        start = time.perf_counter() + self._number * _PHASE % 1.0 / fps
        while not self._ending.is_set():
            due = start + index / fps
            index += 1
            wait = due - time.perf_counter()
            await asyncio.sleep(max(0.0, wait))
            if self._live and not wire.has_credit:
                self.count.drop("skipped")
                continue
            if self._live or wait > 0:  # a lossless stream that waited for a credit is behind
                self.late.append(1000 * (time.perf_counter() - due))
            await self._put(wire, index, self.count, due)
        await wire.end()

    async def _put(self, wire: ClientStream, index: int, count: Count, due: float) -> None:
        data = self._options.frame(7 * self._number + index)
        count.sent += 1
        count.bytes_in += len(data)
        self._totals["sent"] += 1
        self._sent[wire.next_seq] = count, due
        await wire.send(data)

    async def _listen(self, wire: ClientStream) -> None:
        async for answer in wire:
            self._take(answer)

    def _take(self, answer: object) -> None:
        if isinstance(answer, Result):
            count, due = self._sent.pop(answer.meta.seq)
            count.result(answer.meta, 1000 * (time.perf_counter() - due), answer.nbytes)
            self._totals["results"] += 1
        elif isinstance(answer, Drop):
            count, _ = self._sent.pop(answer.seq)
            count.drop(answer.reason)
            self._totals["drops"] += 1
        elif isinstance(answer, Ended):
            ours = tuple(self._totals[name] for name in ("sent", "results", "drops"))
            theirs = answer.received, answer.results, answer.drops
            if ours != theirs:
                words = "frames, results and drops"
                self.count.problems.append(f"the server counts {theirs} {words}; {ours} came")
