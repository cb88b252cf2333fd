"""Many streams, few threads: one frame in flight per stream; what was promised goes first, then
whoever waited longest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.engine import Priority
from service.threads import thread_pool

__all__ = ["Lane", "Scheduler"]

T = TypeVar("T")


@dataclass(slots=True)
class _Work:
    call: Callable[[], Any]
    priority: Priority
    done: asyncio.Future[Any]
    finished: asyncio.Event


class Scheduler:
    """A pool of `workers` threads shared by lanes. The event loop owns it.

    A lane has one piece of work waiting or running at most and queues up again behind the others,
    so that equal lanes take turns. Work of clips runs only where no live work waits. Everything
    that computes belongs here: OpenMP keeps a pool for every thread that uses it, and more pools
    than cores make each of them slow.

    Args:
        workers: threads.
        patience: seconds for which work of clips waits after live work has ended, because the next
            of that lane is on its way. 0 where the lane's owner is in the same event loop.
    """

    def __init__(self, workers: int, patience: float = 0.0) -> None:
        self._pool = thread_pool(workers, "resq-infer")
        self._free = workers
        self._patience, self._clips_from = patience, 0.0
        self._later: asyncio.TimerHandle | None = None
        self._waiting: dict[Priority, deque[_Work]] = {p: deque() for p in Priority}

    def lane(self, priority: Priority = Priority.LIVE) -> Lane:
        """A place in the queue for one stream."""
        return Lane(self, priority)

    def close(self) -> None:
        """Wait for what runs; what waits is cancelled."""
        for queue in self._waiting.values():
            while queue:
                work = queue.popleft()
                work.done.cancel()
                work.finished.set()
        self._pool.shutdown(wait=True)

    def _submit(self, work: _Work) -> None:
        self._waiting[work.priority].append(work)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._free:
            work = self._next()
            if work is None:
                return
            self._free -= 1
            asyncio.get_running_loop().run_in_executor(self._pool, work.call).add_done_callback(
                partial(self._on_done, work)
            )

    def _next(self) -> _Work | None:
        for priority in Priority:
            if priority is Priority.CLIP and self._waiting[priority] and self._clips_wait():
                return None
            while self._waiting[priority]:
                work = self._waiting[priority].popleft()
                if not work.done.cancelled():
                    return work
                work.finished.set()
        return None

    def _clips_wait(self) -> bool:
        """Whether it is too early for a clip; it is looked at again when it is not."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._clips_from:
            return False
        if self._later is not None:
            self._later.cancel()
        self._later = loop.call_at(self._clips_from, self._dispatch)
        return True

    def _on_done(self, work: _Work, result: asyncio.Future[Any]) -> None:
        self._free += 1
        work.finished.set()
        if self._patience and work.priority is not Priority.CLIP:
            self._clips_from = asyncio.get_running_loop().time() + self._patience
        error = result.exception()
        if not work.done.done():
            if error is not None:
                work.done.set_exception(error)
            else:
                work.done.set_result(result.result())
        # after the lane's owner had its turn: its next work may go before a clip's
        asyncio.get_running_loop().call_soon(self._dispatch)


class Lane:
    """One stream's access to the threads."""

    def __init__(self, scheduler: Scheduler, priority: Priority) -> None:
        self._scheduler, self._priority = scheduler, priority
        self._last: _Work | None = None

    async def run(self, call: Callable[[], T], priority: Priority | None = None) -> T:
        """Run in a thread when it is this lane's turn; None is the lane's own priority.

        Raises:
            RuntimeError: the lane's earlier work still waits or runs.
        """
        if self._last is not None and not self._last.finished.is_set():
            raise RuntimeError("a lane runs one thing at a time")
        loop = asyncio.get_running_loop()
        work = _Work(
            partial(copy_context().run, call),
            self._priority if priority is None else priority,
            loop.create_future(),
            asyncio.Event(),
        )
        self._last = work
        self._scheduler._submit(work)
        result: T = await work.done
        return result

    async def idle(self) -> None:
        """Wait until no thread works for this lane, also after a cancelled `run`."""
        if self._last is not None and not self._last.finished.is_set():
            self._scheduler._dispatch()
            await self._last.finished.wait()
