"""Which workers there are and which stream is where: the one account that all gateways share.

A named, detached actor. It keeps nothing on a disk: started anew it finds the workers by their
names, and the gateways tell it of their streams within a second.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from service.cluster.wire import Load
from service.cluster.worker import Worker as WorkerActor
from service.cluster.worker import WorkerSetup
from service.placement import Policy, State, Worker, choose, scale

__all__ = ["NAMESPACE", "ROSTER", "Claim", "Member", "Placed", "Roster", "View"]

NAMESPACE, ROSTER = "resq", "resq-roster"
_WORKER = "resq-worker-"
_TEND_SECONDS = 0.5
_BEAT_SECONDS = 3.0  # without an answer for so long a worker is given no streams
_GATEWAY_SECONDS = 10.0  # a gateway that said nothing for so long is gone
_FRESH_SECONDS = 5.0  # over which workers measure their load
_CALLS = 10_000  # at the same time, of one actor
_log = logging.getLogger("resq.roster")


@dataclass(frozen=True, slots=True)
class Claim:
    """Where a stream is, and the slots that its declared rate takes."""

    worker: str
    slots: float


@dataclass(frozen=True, slots=True)
class Member:
    """A worker, the handle of its actor, and its machine's name and process, once it said so."""

    worker: Worker
    handle: Any
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a stream goes, and the slots that it could claim there."""

    name: str
    handle: Any
    room: float


@dataclass(frozen=True, slots=True)
class View:
    """What a gateway knows of the rest.

    Attributes:
        members: every worker.
        others: slots that the streams of other gateways claim.
        streams: descriptions of those, by id.
        policy: what the operator decided.
    """

    members: tuple[Member, ...] = ()
    others: float = 0.0
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)


@dataclass(slots=True)
class _Known:
    """A worker as the roster knows it."""

    handle: Any
    slots: float
    state: State = State.STARTING
    measured: float = 0.0
    streams: int = 0
    host: str = ""
    pid: int = 0


@dataclass(slots=True)
class _Gateway:
    seen: float
    claims: Mapping[str, Claim] = field(default_factory=dict)
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    came: dict[str, float] = field(default_factory=dict)

    @property
    def placed_lately(self) -> dict[str, Claim]:
        """Claims of streams that came in the last seconds."""
        since = time.monotonic() - _FRESH_SECONDS
        return {key: claim for key, claim in self.claims.items() if self.came[key] > since}

    def claim(self, claims: Mapping[str, Claim]) -> None:
        """These are its streams now."""
        now = time.monotonic()
        self.came = {key: self.came.get(key, now) for key in claims}
        self.claims = claims


class Roster:
    """The actor. One event loop owns it.

    Args:
        setup: what new workers are made with.
        policy: where streams go and how many workers there are.
    """

    def __init__(self, setup: WorkerSetup, policy: Policy) -> None:
        self._setup, self._policy = setup, policy
        self._workers: dict[str, _Known] = {}
        self._gateways: dict[str, _Gateway] = {}
        self._tending: asyncio.Task[None] | None = None
        self._since: float | None = None
        self._began = time.monotonic()
        self._leaving: list[str] = []  # workers that are to be replaced, one after the other
        self._replacement: str | None = None

    async def set_up(self, setup: WorkerSetup, policy: Policy) -> None:
        """What is in force from now on; workers that run stay as they are."""
        self._setup, self._policy = setup, policy
        self._begin()

    async def place(self, gateway: str, key: str, slots: float, avoid: str | None) -> Placed | None:
        """The worker for a stream that claims so much, the one to avoid only where there is no
        other; None without a worker that has room.
        """
        self._begin()
        workers = self._described()
        name = choose(workers, slots, self._policy, avoid) or choose(workers, slots, self._policy)
        if name is None:
            return None
        owner = self._gateway(gateway)
        owner.claim({**owner.claims, key: Claim(name, slots)})
        [worker] = [w for w in workers if w.name == name]
        return Placed(name, self._workers[name].handle, self._policy.free(worker))

    async def release(self, gateway: str, key: str) -> None:
        """A stream has left where it was, and what it kept busy there is free: an equal share of
        what was measured, until the worker says more.
        """
        owner = self._gateway(gateway)
        left = owner.claims.get(key)
        if left is None:
            return
        owner.claim({k: claim for k, claim in owner.claims.items() if k != key})
        known = self._workers.get(left.worker)
        if known is not None:
            streams = len(self._claimed(left.worker))
            known.measured *= streams / (streams + 1)

    async def report(
        self,
        gateway: str,
        claims: Mapping[str, Claim],
        streams: Mapping[str, Mapping[str, Any]],
    ) -> View:
        """A gateway's streams, by key what they claim, by id what they are; gives the rest.

        One that was placed a moment ago counts although it is not among them: it is being opened,
        and the next must not go to the same worker for that.
        """
        self._begin()
        mine = self._gateway(gateway)
        mine.claim({**mine.placed_lately, **claims})
        mine.streams = streams
        others = [g for g in self._gateways.values() if g is not mine]
        return View(
            self._members(),
            sum(claim.slots for other in others for claim in other.claims.values()),
            {name: facts for other in others for name, facts in other.streams.items()},
            self._policy,
        )

    async def lost(self, name: str) -> None:
        """A gateway could not reach a worker: it gets no stream before it answers again."""
        known = self._workers.get(name)
        if known is not None and known.state is State.READY:
            _log.warning("worker %s is lost", name)
            known.state = State.STARTING

    async def drain(self, name: str) -> bool:
        """Give a worker no more streams, have its own moved, then end it; False of none."""
        known = self._workers.get(name)
        if known is None:
            return False
        known.state = State.DRAINING
        return True

    async def renew(self) -> tuple[str, ...]:
        """Replace every worker by a new one: each drains when its successor is ready, one after the
        other, so that there is room for one more than there are. Gives their names.
        """
        self._begin()
        self._leaving = [n for n, w in self._workers.items() if w.state is not State.DRAINING]
        return tuple(self._leaving)

    async def leave(self, gateway: str) -> None:
        """A gateway ends; its streams have ended."""
        self._gateways.pop(gateway, None)

    async def workers(self) -> tuple[Member, ...]:
        """Every worker."""
        self._begin()
        return self._members()

    def _begin(self) -> None:
        if self._tending is None:
            self._recover()
            self._tending = asyncio.create_task(self._tend())

    def _recover(self) -> None:
        """Take up the workers that an earlier roster started."""
        for name in ray.util.list_named_actors():
            if name.startswith(_WORKER) and name not in self._workers:
                self._workers[name] = _Known(ray.get_actor(name), self._setup.threads)

    def _start_worker(self) -> str:
        name = f"{_WORKER}{secrets.token_hex(4)}"
        actor = ray.remote(WorkerActor).options(
            name=name,
            lifetime="detached",
            num_cpus=self._setup.threads,
            max_restarts=-1,
            max_task_retries=0,  # a frame that was lost is the client's to send again, or not
            max_concurrency=_CALLS,
            enable_task_events=False,  # several for each frame, which nobody looks at
        )
        self._workers[name] = _Known(actor.remote(self._setup), self._setup.threads)
        _log.info("worker %s starts", name)
        return name

    async def _tend(self) -> None:
        while True:
            try:
                await self._look_after()
            except Exception:
                _log.exception("the workers could not be looked after")
            await asyncio.sleep(_TEND_SECONDS)

    async def _look_after(self) -> None:
        now = time.monotonic()
        for name, gateway in list(self._gateways.items()):
            if now - gateway.seen > _GATEWAY_SECONDS:
                del self._gateways[name]
                _log.warning("gateway %s is gone, with %d streams", name, len(gateway.claims))
        # one that was started anew does not know them all yet
        sure = now - self._began > _GATEWAY_SECONDS
        gateways = frozenset(self._gateways) if sure else None
        await asyncio.gather(*(self._beat(known, gateways) for known in self._workers.values()))
        decided = scale(self._described(), self._policy, now, self._since)
        self._since = decided.since
        for _ in range(decided.start):
            self._start_worker()
        if self._leaving:
            await self._replace()
        else:
            for name in decided.drain:
                await self.drain(name)
        for name, known in list(self._workers.items()):
            if known.state is State.DRAINING and not known.streams and not self._claimed(name):
                ray.kill(known.handle)
                del self._workers[name]
                _log.info("worker %s has ended", name)

    async def _replace(self) -> None:
        if self._replacement is None:
            self._replacement = self._start_worker()
        known = self._workers.get(self._replacement)
        if known is None or known.state is State.READY:
            await self.drain(self._leaving.pop(0))
            self._replacement = None

    async def _beat(self, known: _Known, gateways: frozenset[str] | None) -> None:
        try:
            async with asyncio.timeout(_BEAT_SECONDS):
                load: Load = await known.handle.beat.remote(gateways)
        except Exception:  # it starts, is started anew, or hangs: it says so itself when it is back
            if known.state is State.READY:
                known.state = State.STARTING
            return
        known.slots, known.measured, known.streams = load.slots, load.measured, load.streams
        known.host, known.pid = load.host, load.pid
        if known.state is State.STARTING:
            known.state = State.READY

    def _gateway(self, name: str) -> _Gateway:
        found = self._gateways.setdefault(name, _Gateway(0.0))
        found.seen = time.monotonic()
        return found

    def _claimed(self, name: str) -> list[Claim]:
        every = (c for g in self._gateways.values() for c in g.claims.values())
        return [claim for claim in every if claim.worker == name]

    def _members(self) -> tuple[Member, ...]:
        known = self._workers
        return tuple(
            Member(w, known[w.name].handle, known[w.name].host, known[w.name].pid)
            for w in self._described()
        )

    def _described(self) -> tuple[Worker, ...]:
        now = time.monotonic()
        claims = {name: self._claimed(name) for name in self._workers}
        return tuple(
            Worker(
                name,
                known.slots,
                sum(claim.slots for claim in claims[name]),
                known.measured if claims[name] else 0.0,  # it was told before the last one left
                len(claims[name]),
                known.state,
                sum(
                    g.claims[key].worker == name and now - came < _FRESH_SECONDS
                    for g in self._gateways.values()
                    for key, came in g.came.items()
                ),
            )
            for name, known in self._workers.items()
        )
