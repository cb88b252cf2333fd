"""Which streams there are, and how many there may be."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Protocol

from service.taps import Taps

__all__ = ["DuplicateIdError", "FullError", "QuotaError", "Registered", "Registry", "Slot"]


class Registered(Protocol):
    """What the registry knows of a session."""

    def describe(self) -> dict[str, Any]:
        """Facts for people and programs."""
        ...

    def stop(self, reason: str) -> None:
        """End the stream soon; frames on their way become drops."""
        ...

    @property
    def taps(self) -> Taps | None:
        """Where its results can be followed; None before it has started and after its end."""
        ...


class FullError(Exception):
    """No stream more fits."""


class QuotaError(Exception):
    """The client has as many streams as one client may."""


class DuplicateIdError(Exception):
    """A stream of this id is active."""


class Slot:
    """One admitted connection. Release it once or often: it frees one place."""

    def __init__(self, registry: Registry, client: str) -> None:
        self._registry, self.client = registry, client
        self.id: str | None = None

    def name(self, wanted: str | None, session: Registered) -> str:
        """Give the stream its id; None takes a random one.

        Raises:
            DuplicateIdError: the id is taken.
        """
        self.id = self._registry._name(wanted or secrets.token_hex(8), session)
        return self.id

    def release(self) -> None:
        """Free the place and the id."""
        self._registry._release(self)


class Registry:
    """Admission and lookup. The event loop owns it."""

    def __init__(self, max_streams: int, per_client: int) -> None:
        self._max, self._per_client = max_streams, per_client
        self._slots: set[Slot] = set()
        self._sessions: dict[str, Registered] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False

    def admit(self, client: str) -> Slot:
        """Take a place for a client.

        Raises:
            FullError: there is none.
            QuotaError: the client has as many as it may.
        """
        if self.draining:
            raise FullError("the server is shutting down")
        if len(self._slots) >= self._max:
            raise FullError(f"all {self._max} streams are taken; try again later")
        if sum(slot.client == client for slot in self._slots) >= self._per_client:
            raise QuotaError(f"you have {self._per_client} streams open; expected no more")
        slot = Slot(self, client)
        self._slots.add(slot)
        self._empty.clear()
        return slot

    @property
    def sessions(self) -> dict[str, Registered]:
        """Active streams by id."""
        return dict(self._sessions)

    def drain(self, reason: str) -> None:
        """Admit no one and end every stream."""
        self.draining = True
        for session in self.sessions.values():
            session.stop(reason)

    async def empty(self) -> None:
        """Wait until no stream is left."""
        await self._empty.wait()

    def _name(self, wanted: str, session: Registered) -> str:
        if wanted in self._sessions:
            raise DuplicateIdError(f"a stream with the id {wanted!r} is active")
        self._sessions[wanted] = session
        return wanted

    def _release(self, slot: Slot) -> None:
        if slot in self._slots:
            self._slots.remove(slot)
            if not self._slots:
                self._empty.set()
            if slot.id is not None:
                del self._sessions[slot.id]
