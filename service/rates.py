"""How much of something each caller may have: token buckets in a table that cannot grow."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Rate"]


class Rate:
    """A bucket for each caller: it starts full and refills evenly. The event loop owns it.

    The table holds the callers seen last. A caller that is forgotten starts again with a full
    bucket; one that keeps asking is never among the oldest.

    Args:
        amount: what fits a bucket, and what it regains in `seconds`.
        seconds: of a full refill.
        callers: buckets that are kept.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        amount: float,
        seconds: float,
        callers: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._amount, self._seconds = amount, seconds
        self._callers, self._clock = callers, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # level, when

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, caller: str, count: float = 1.0) -> float:
        """Seconds until `count` can be taken, 0 if now; what never fits waits a whole refill."""
        if count > self._amount:
            return self._seconds
        return max(0.0, count - self._level(caller)) * self._seconds / self._amount

    def take(self, caller: str, count: float = 1.0) -> float:
        """Take `count` if it is there; returns the seconds to wait, 0 if it was taken."""
        wait = self.wait(caller, count)
        self._set(caller, self._level(caller) - (count if wait == 0 else 0.0))
        return wait

    def empty(self, caller: str) -> None:
        """Take all that is there."""
        self._set(caller, 0.0)

    def _set(self, caller: str, level: float) -> None:
        self._buckets[caller] = level, self._clock()
        self._buckets.move_to_end(caller)
        if len(self._buckets) > self._callers:
            self._buckets.popitem(last=False)

    def _level(self, caller: str) -> float:
        level, when = self._buckets.get(caller, (self._amount, 0.0))
        return min(self._amount, level + (self._clock() - when) * self._amount / self._seconds)
