"""What waits to be sent to one client, bounded however slowly it reads."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from service.messages import ResultMeta
from service.protocol import Flags

__all__ = ["Outbox", "Result"]

MAX_TEXTS = 512
MAX_RESULTS = 2


@dataclass(frozen=True, slots=True)
class Result:
    """A result that is ready and not sent."""

    meta: ResultMeta
    blobs: tuple[bytes, ...]
    flags: Flags


class Outbox:
    """Texts and results in order. In live mode a newer result displaces the oldest that waits.

    newest_wins: at most `MAX_RESULTS` results wait; otherwise the client's credits bound them.
    """

    def __init__(self, newest_wins: bool) -> None:
        self._newest_wins = newest_wins
        self._items: deque[str | Result] = deque()
        self._results = 0
        self._ready = asyncio.Event()
        self._closed = False

    @property
    def overflown(self) -> bool:
        """More texts wait than any reading client lets pile up."""
        return len(self._items) - self._results > MAX_TEXTS

    @property
    def seqs(self) -> frozenset[int]:
        """Of the results that wait."""
        return frozenset(item.meta.seq for item in self._items if isinstance(item, Result))

    def text(self, text: str) -> None:
        """Append a text message."""
        self._items.append(text)
        self._ready.set()

    def result(self, result: Result) -> Result | None:
        """Append a result; returns an older one that had to go."""
        displaced = None
        if self._newest_wins and self._results >= MAX_RESULTS:
            displaced = next(item for item in self._items if isinstance(item, Result))
            self._items.remove(displaced)
            self._results -= 1
        self._items.append(result)
        self._results += 1
        self._ready.set()
        return displaced

    async def get(self) -> str | Result | None:
        """The next message; None after `close` when all are gone."""
        while not self._items:
            if self._closed:
                return None
            self._ready.clear()
            await self._ready.wait()
        item = self._items.popleft()
        if isinstance(item, Result):
            self._results -= 1
        return item

    def close(self) -> None:
        """No message follows; those that wait are still sent."""
        self._closed = True
        self._ready.set()
