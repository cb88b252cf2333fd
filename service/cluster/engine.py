"""The engine of a gateway: its streams run on workers that the roster names."""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

from resq_core.backends import Serving
from resq_core.naming import not_known
from resq_core.zoo import ModelCard
from service.cluster.call import call
from service.cluster.roster import Claim, Member, Placed, View
from service.cluster.stream import Place, RemoteStream
from service.engine import EngineError, StreamSpec, WorkerLost
from service.placement import State, choose

__all__ = ["RayEngine"]

_log = logging.getLogger("resq.cluster")
_ROSTER_SECONDS = 1.0  # for which the roster is waited for; then what it said last has to do


class RayEngine:
    """Streams on the workers of a cluster of Ray. Any thread.

    Args:
        cards: of the models on offer; every worker has them.
        roster: the handle of its actor.

    Attributes:
        name: of the gateway, new with each engine.
    """

    def __init__(self, cards: Sequence[ModelCard], roster: Any) -> None:
        self._cards = {card.name: card for card in cards}
        self.roster = roster
        self.name = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._streams: WeakSet[RemoteStream] = WeakSet()
        self._serving: dict[str, Serving] = {}
        self._view, self._reachable = View(), True

    def models(self) -> tuple[ModelCard, ...]:
        """Cards of the models on offer."""
        return tuple(self._cards.values())

    def card(self, name: str) -> ModelCard:
        """One model's card. Raises EngineError for an unknown name."""
        if name not in self._cards:
            raise EngineError("model", not_known("no model is", name, self._cards))
        return self._cards[name]

    def serving(self, name: str) -> Serving | None:
        """Which backend ran a model last, and why not the native one; None before its first use."""
        return self._serving.get(name)

    def open(self, spec: StreamSpec) -> RemoteStream:
        """Open a stream on the least loaded worker. Raises EngineError, or WorkerLost."""
        stream = RemoteStream(self.card(spec.model), spec, self)
        self._streams.add(stream)
        if stream.serving is not None:
            self._serving[spec.model] = stream.serving
        return stream

    @property
    def members(self) -> tuple[Member, ...]:
        """The workers, as the roster described them last."""
        return self._view.members

    @property
    def slots(self) -> float:
        """Frames that the workers infer at the same time, less what other gateways claim."""
        members = (member.worker for member in self.members)
        slots = sum(worker.slots for worker in members if worker.state is State.READY)
        return max(0.0, slots - self._view.others)

    @property
    def clips(self) -> int:
        """As many as there are workers."""
        ready = [m for m in self.members if m.worker.state is State.READY]
        return max(1, len(ready))

    def share(self, streams: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Tell the roster of this gateway's streams; gives those of the others. Where the roster
        cannot be reached what it said last goes on.
        """
        open_now = list(self._streams)
        claims = {s.place.key: Claim(s.place.name, s.claimed) for s in open_now if s.open}
        try:
            view = call(
                self.roster.report, self.name, claims, dict(streams), seconds=_ROSTER_SECONDS
            )
        except WorkerLost as lost:
            if self._reachable:
                _log.warning("the roster does not answer: %s", lost)
            self._reachable = False
        else:
            assert isinstance(view, View)
            self._view, self._reachable = view, True
        return self._view.streams

    def close(self) -> None:
        """Leave; the workers stay for other gateways, and for this one when it is back."""
        self.roster.leave.remote(self.name)

    def place(self, avoid: str | None) -> Place:
        """See `Home`."""
        key = f"{self.name}/{next(self._numbers)}"
        try:
            placed = call(self.roster.place, self.name, key, 0.0, avoid, seconds=_ROSTER_SECONDS)
        except WorkerLost:  # it is started anew, or the head node is down: streams can start still
            placed = self._placed_by_itself(avoid)
        if placed is None:
            raise WorkerLost("no worker is ready; try again later", "no_worker")
        assert isinstance(placed, Placed)
        return Place(placed.name, placed.handle, key, placed.room)

    def is_leaving(self, worker: str) -> bool:
        """See `Home`."""
        states = {m.worker.name: m.worker.state for m in self.members}
        return states.get(worker) is State.DRAINING and State.READY in states.values()

    def on_lost(self, worker: str) -> None:
        """See `Home`."""
        self.roster.lost.remote(worker)

    def on_left(self, place: Place) -> None:
        """See `Home`."""
        self.roster.release.remote(self.name, place.key)

    def _placed_by_itself(self, avoid: str | None) -> Placed | None:
        view = self._view
        workers = [member.worker for member in view.members]
        name = choose(workers, 0.0, view.policy, avoid) or choose(workers, 0.0, view.policy)
        for member in view.members:
            if member.worker.name == name:
                return Placed(name, member.handle, view.policy.free(member.worker))
        return None
