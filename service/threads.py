"""Work in threads: pools whose threads are all there from the start, and the context of a call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

__all__ = ["in_thread", "thread_pool"]

P = ParamSpec("P")
T = TypeVar("T")


def in_thread(
    pool: Executor, call: Callable[P, T], *args: P.args, **named: P.kwargs
) -> asyncio.Future[T]:
    """Call it there, in the caller's context: what it logs says what it is about."""
    context = copy_context()
    return asyncio.get_running_loop().run_in_executor(
        pool, lambda: context.run(call, *args, **named)
    )


def thread_pool(count: int, name: str) -> ThreadPoolExecutor:
    """A pool that never has to start a thread later, when the system may refuse one.

    An executor that cannot start a thread raises after it has queued the work: whoever handed it
    in is told that it failed, while it may still be done.

    Raises:
        RuntimeError: the system gives no such number of threads.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    together = threading.Barrier(count + 1)  # a thread that waits here is not idle
    try:
        for _ in range(count):
            pool.submit(together.wait)
    except RuntimeError:
        together.abort()
        pool.shutdown(wait=False)
        raise
    together.wait()
    return pool
