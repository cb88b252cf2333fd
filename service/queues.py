"""Bounded queues of the event loop, each with its stated policy when full."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Closed", "Queue"]

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - an end, not an error
    """The queue is closed and empty."""


class Queue(Generic[T]):
    """At most `size` items. When full: `offer` refuses, `put` waits, `push` displaces the oldest.

    With size 1 and `push` it is a slot that holds the newest item. Not thread-safe.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; expected at least 1")
        self._size = size
        self._items: deque[T] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, item: T) -> bool:
        """Append, or refuse when full or closed."""
        if self._closed or len(self._items) >= self._size:
            return False
        self._append(item)
        return True

    def push(self, item: T) -> T | None:
        """Append; returns the oldest item if it had to go, or this one if closed."""
        if self._closed:
            return item
        displaced = self._items.popleft() if len(self._items) >= self._size else None
        self._append(item)
        return displaced

    async def put(self, item: T) -> None:
        """Append, waiting for room.

        Raises:
            Closed: the queue is closed.
        """
        while not self.offer(item):
            if self._closed:
                raise Closed
            self._changed.clear()
            await self._changed.wait()

    async def get(self) -> T:
        """The oldest item, waiting for one.

        Raises:
            Closed: the queue is closed and empty.
        """
        while not self._items:
            if self._closed:
                raise Closed
            self._changed.clear()
            await self._changed.wait()
        item = self._items.popleft()
        self._changed.set()
        return item

    def close(self) -> None:
        """Take nothing more; what is inside can still be got."""
        self._closed = True
        self._changed.set()

    def _append(self, item: T) -> None:
        self._items.append(item)
        self._changed.set()
