"""Pools whose threads are all there from the start."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

__all__ = ["thread_pool"]


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
