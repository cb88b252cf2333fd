"""Streams on many workers, frame by frame, in simulated time: a discrete-event simulation.

What is simulated is one fleet behind gateways that are never a bottleneck: streams are placed by
`service/placement.py`, as the engine places them, and stay. A worker has cores; a frame takes its
whole processor time on one of them, first come, first served, and a stream has one frame in flight
and one, the newest, that waits behind it: as `service/scheduler.py` and a live intake do.
"""

from __future__ import annotations

import heapq
import math
import random
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from service.fleet import Fleet
from service.frame_costs import FrameCosts
from service.percentiles import percentiles
from service.placement import Policy, State, Worker, choose

__all__ = ["Simulation"]

_ARRIVES, _DONE, _BEGINS, _LEAVES, _LOST, _MOVES, _BACK = range(7)


@dataclass(slots=True, eq=False)
class _Stream:
    worker: int | None = None
    generation: int = 0  # of the client that has this place
    turn: int = 0  # of its worker: what was in flight before it moved is nobody's
    busy: bool = False
    waiting: float | None = None  # when the frame that waits behind it was due
    since_anchor: int = 0


@dataclass(slots=True, eq=False)
class _Host:
    """A worker's cores and their queue: streams with when their frame was due, and their turn."""

    free: int
    queue: deque[tuple[_Stream, float, int]] = field(default_factory=deque)
    streams: dict[_Stream, None] = field(default_factory=dict)  # in the order they came
    up: bool = True
    life: int = 0
    busy: float = 0.0  # core seconds of the counted time


class Simulation:
    """One run over a fleet; `run` it once.

    Args:
        costs: of frames; each takes a drawn share of its kind's.
        fleet: see `Fleet`.
    """

    def __init__(self, costs: FrameCosts, fleet: Fleet) -> None:
        self._fleet, self._random = fleet, random.Random(fleet.seed)
        worker = costs.worker
        self._other = (costs.other_ms or 0.0) / 1000
        self._anchor = worker.anchor_ms / 1000, worker.anchor_spread
        self._residual = worker.residual(fleet.active) / 1000, worker.residual_spread
        mean = worker.mean(fleet.period, fleet.active) / 1000
        self._demand, self._expected = fleet.fps * mean, mean + self._other
        self._policy = Policy(share=fleet.share, most=fleet.workers)
        self._workers = [Worker(f"{i:06d}", float(fleet.cores)) for i in range(fleet.workers)]
        self._hosts = [_Host(fleet.cores) for _ in range(fleet.workers)]
        self._events: list[tuple[float, int, int, Any]] = []
        self._number = 0
        self._end = fleet.begin + fleet.seconds
        self._due = self._results = 0
        self._drops: Counter[str] = Counter()
        self._refused = self._moved = 0
        self.latencies = array("d")
        self._homeless: list[_Stream] = []

    def run(self) -> dict[str, Any]:
        """Figures of the counted time, ready for JSON."""
        fleet = self._fleet
        for _ in range(fleet.streams):
            self._at(self._random.uniform(0, fleet.begin), _BEGINS, _Stream())
        for worker in self._random.sample(range(fleet.workers), fleet.lose):
            self._at(self._random.uniform(fleet.begin, self._end), _LOST, worker)
        handle: dict[int, Callable[[float, Any], None]] = {
            _ARRIVES: self._arrive,
            _DONE: self._done,
            _BEGINS: self._begin,
            _LEAVES: self._leave,
            _LOST: self._lose,
            _MOVES: self._move,
            _BACK: self._come_back,
        }
        while self._events:
            now, _, kind, what = heapq.heappop(self._events)
            handle[kind](now, what)
        used = [h.busy / (fleet.cores * fleet.seconds) for h in self._hosts]
        placed = [len(h.streams) for h in self._hosts]
        return {
            "streams": fleet.streams,
            "workers": fleet.workers,
            "cores": fleet.cores,
            "seconds": fleet.seconds,
            "due": self._due,
            "results": self._results,
            "drops": dict(sorted(self._drops.items())),
            "refused": self._refused,
            "moved": self._moved,
            "latency_ms": percentiles(self.latencies),
            "utilisation": {
                "mean": round(sum(used) / len(used), 4),
                "least": round(min(used), 4),
                "most": round(max(used), 4),
            },
            "streams_per_worker": {"least": min(placed), "most": max(placed)},
        }

    def _at(self, when: float, kind: int, what: Any) -> None:
        self._number += 1  # events of one moment are handled in order
        heapq.heappush(self._events, (when, self._number, kind, what))

    def _counts(self, due: float) -> bool:
        return self._fleet.begin <= due < self._end

    def _begin(self, now: float, stream: _Stream) -> None:
        """A client comes to this place."""
        stream.generation += 1
        if not self._place(stream, None):
            self._refused += 1
            return
        first = now + self._random.random() / self._fleet.fps
        self._at(first, _ARRIVES, (stream, stream.generation))
        if self._fleet.stay is not None:
            stays = self._random.expovariate(1 / self._fleet.stay)
            if now + stays < self._end:
                self._at(now + stays, _LEAVES, stream)

    def _leave(self, now: float, stream: _Stream) -> None:
        self._take_away(stream, "left")
        self._begin(now, stream)

    def _place(self, stream: _Stream, avoid: str | None) -> bool:
        name = choose(self._workers, self._demand, self._policy, avoid)
        if name is None:
            return False
        index = int(name)
        stream.worker, stream.since_anchor = index, 0
        self._hosts[index].streams[stream] = None
        self._claim(index)
        return True

    def _claim(self, index: int) -> None:
        count = len(self._hosts[index].streams)
        worker = self._workers[index]
        self._workers[index] = replace(worker, claimed=count * self._demand, streams=count)

    def _take_away(self, stream: _Stream, reason: str) -> None:
        """The stream leaves its worker; what it has on the way gets no result."""
        index = stream.worker
        if index is not None:
            del self._hosts[index].streams[stream]
            self._claim(index)
        elif stream in self._homeless:
            self._homeless.remove(stream)
        if stream.waiting is not None:
            self._drop(stream.waiting, reason)
        stream.worker, stream.waiting, stream.busy = None, None, False
        stream.turn += 1

    def _arrive(self, now: float, what: tuple[_Stream, int]) -> None:
        """A frame is due: it is queued, or waits behind the stream's other one."""
        stream, generation = what
        if generation != stream.generation or now >= self._end:
            return
        self._at(now + 1 / self._fleet.fps, _ARRIVES, what)
        if self._counts(now):
            self._due += 1
        if stream.worker is None or not self._hosts[stream.worker].up:
            self._drop(now, "worker_lost")
            return
        if stream.waiting is not None:
            self._drop(stream.waiting, "superseded")
        stream.waiting = now
        if not stream.busy:
            host = self._hosts[stream.worker]
            self._next(host, stream)
            self._dispatch(now, host)

    def _next(self, host: _Host, stream: _Stream) -> None:
        """The frame that waits behind the stream's last one is queued, if there is one."""
        due, stream.waiting = stream.waiting, None
        stream.busy = due is not None
        if due is not None:
            host.queue.append((stream, due, stream.turn))

    def _dispatch(self, now: float, host: _Host) -> None:
        deadline = self._fleet.deadline
        while host.free and host.queue:
            stream, due, turn = host.queue.popleft()
            if turn != stream.turn:
                self._drop(due, "left")
            elif deadline is not None and now + self._expected > due + deadline:
                self._drop(due, "deadline")
                self._next(host, stream)
            else:
                takes = self._takes(stream)
                host.free -= 1
                host.busy += max(0.0, min(now + takes, self._end) - max(now, self._fleet.begin))
                self._at(now + takes, _DONE, (host, host.life, stream, due, turn))

    def _takes(self, stream: _Stream) -> float:
        """Seconds of a core."""
        is_anchor = stream.since_anchor % self._fleet.period == 0
        stream.since_anchor = 1 if is_anchor else stream.since_anchor + 1
        mean, spread = self._anchor if is_anchor else self._residual
        place = self._random.random() * (len(spread) - 1)
        low = math.floor(place)
        ratio = spread[low] + (place - low) * (spread[low + 1] - spread[low])
        return mean * ratio + self._other

    def _done(self, now: float, what: tuple[_Host, int, _Stream, float, int]) -> None:
        host, life, stream, due, turn = what
        if life != host.life:
            self._drop(due, "worker_lost")
            return
        host.free += 1
        if turn != stream.turn:
            self._drop(due, "left")
        else:
            if self._counts(due):
                self._results += 1
                self.latencies.append(1000 * (now - due))
            self._next(host, stream)
        self._dispatch(now, host)

    def _drop(self, due: float, reason: str) -> None:
        if self._counts(due):
            self._drops[reason] += 1

    def _lose(self, now: float, index: int) -> None:
        """A worker is gone: its frames get no result, and nobody knows for a while."""
        host = self._hosts[index]
        host.up, host.life = False, host.life + 1
        for stream, due, turn in host.queue:
            self._drop(due, "worker_lost" if turn == stream.turn else "left")
        host.queue.clear()
        for stream in host.streams:
            if stream.waiting is not None:
                self._drop(stream.waiting, "worker_lost")
            stream.waiting, stream.busy = None, False
            stream.turn += 1
        self._at(now + self._fleet.notice, _MOVES, index)
        self._at(now + self._fleet.back, _BACK, index)

    def _move(self, now: float, index: int) -> None:
        """The loss is noticed: the streams are placed anew, those that there is room for."""
        host, worker = self._hosts[index], self._workers[index]
        streams, host.streams = list(host.streams), {}
        self._workers[index] = replace(worker, claimed=0.0, streams=0, state=State.STARTING)
        for stream in streams:
            stream.worker = None
            self._replace(stream, worker.name)

    def _replace(self, stream: _Stream, avoid: str | None) -> None:
        if self._place(stream, avoid):
            self._moved += 1
        else:
            self._homeless.append(stream)

    def _come_back(self, now: float, index: int) -> None:
        """The lost worker is there again, empty; streams that had no room may have it now."""
        host = self._hosts[index]
        host.up, host.free = True, self._fleet.cores
        self._workers[index] = replace(self._workers[index], state=State.READY)
        homeless, self._homeless = self._homeless, []
        for stream in homeless:
            if stream.worker is None:
                self._replace(stream, None)
