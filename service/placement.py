"""Which worker a stream runs on, and how many workers there should be. Values in, values out.

No clock, no threads, no Ray: whoever knows the workers asks here, a gateway, the account that
gateways share, or a simulation of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Policy", "Scaling", "State", "Worker", "choose", "scale"]

_EXACT = 1e-9  # demands are sums of floats
_FRESH = 0.1  # slots of a stream that is too new to show in what is measured
_ALIKE = 0.05  # loads in one such step, for each slot, are equal: what is measured varies


class State(StrEnum):
    """Where a worker stands: only ready ones are given streams."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Worker:
    """What is known of one worker.

    Attributes:
        name: tells it from the others.
        slots: frames that it infers at the same time.
        claimed: slots that its streams need, declared or estimated.
        measured: slots that frames kept busy lately.
        streams: how many it has.
        state: see `State`.
        fresh: those of the streams that came in the last seconds: `measured` does not show them.
    """

    name: str
    slots: float
    claimed: float = 0.0
    measured: float = 0.0
    streams: int = 0
    state: State = State.READY
    fresh: int = 0

    @property
    def load(self) -> float:
        """Slots that are spoken for: a claim counts before its frames do, work without one too."""
        return max(self.claimed, self.measured + _FRESH * self.fresh)


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator decides.

    Attributes:
        share: of a worker's slots that streams may claim, above 0 and at most 1.
        fewest, most: workers.
        target: of what may be claimed, the part that `scale` aims at; the rest is for streams that
            come while a worker starts.
        patience: seconds for which fewer workers must have been enough before one is drained.

    Raises:
        ValueError: limits that contradict each other.
    """

    share: float = 0.8
    fewest: int = 1
    most: int = 1
    target: float = 0.8
    patience: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most:
            raise ValueError(f"{self.fewest} to {self.most} workers; expected 1 <= fewest <= most")

    def free(self, worker: Worker) -> float:
        """Slots that one more stream could claim there: at most a slot's share, because a stream
        has one frame in flight. 0 of a worker that takes none.
        """
        if worker.state is not State.READY:
            return 0.0
        return max(0.0, min(self.share, self.share * worker.slots - worker.load))


@dataclass(frozen=True, slots=True)
class Scaling:
    """What to do about the number of workers, and what to pass to `scale` the next time.

    Attributes:
        wanted: workers that the load needs.
        start: workers to start now.
        drain: names of workers to drain now.
        since: when fewer workers began to be enough, in the caller's seconds; None while they are
            not.
    """

    wanted: int
    start: int = 0
    drain: tuple[str, ...] = ()
    since: float | None = None


def choose(
    workers: Iterable[Worker], demand: float, policy: Policy, avoid: str | None = None
) -> str | None:
    """The name of the worker for a stream; None if there is none.

    The least loaded one that has room, by its load for each slot with the stream on it, in steps of
    a twentieth; among equals the one with fewer streams for each slot, then by name, so that all
    who ask agree. A stream that claims nothing is refused by no load: it shares what is left.

    Args:
        workers: all of them.
        demand: slots that the stream needs; 0 claims nothing.
        policy: how much of a worker may be claimed.
        avoid: the name of a worker that is not to be taken, such as one that was just lost.
    """
    ready = [w for w in workers if w.state is State.READY and w.name != avoid]
    if demand > 0:
        ready = [w for w in ready if demand <= policy.free(w) + _EXACT]

    def order(worker: Worker) -> tuple[int, float, str]:
        load = (worker.load + demand) / worker.slots
        return math.floor(load / _ALIKE + _EXACT), worker.streams / worker.slots, worker.name

    return min(ready, key=order).name if ready else None


def scale(
    workers: Sequence[Worker], policy: Policy, now: float, since: float | None = None
) -> Scaling:
    """How many workers the load needs, and what to do for it.

    More are started at once; one is drained only after fewer were enough for `patience` seconds,
    and then one at a time, the one with the fewest streams. What is claimed of draining workers
    counts: their streams have to go somewhere.

    Args:
        workers: all of them, starting and draining ones as well.
        policy: limits and aims.
        now: the caller's seconds.
        since: of the last `Scaling`.
    """
    serving = [w for w in workers if w.state is not State.DRAINING]
    slots = sum(w.slots for w in serving) / len(serving) if serving else 1.0
    load = sum(w.load for w in workers)
    needed = math.ceil(load / (slots * policy.share * policy.target) - _EXACT)
    wanted = min(policy.most, max(policy.fewest, needed))
    if wanted >= len(serving):
        return Scaling(wanted, start=wanted - len(serving))
    since = now if since is None else since
    if now - since < policy.patience:
        return Scaling(wanted, since=since)
    least = min(serving, key=lambda w: (w.state is State.READY, w.streams, w.load, w.name))
    return Scaling(wanted, drain=(least.name,), since=now)
