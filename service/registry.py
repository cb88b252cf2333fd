"""Which streams there are, and how many there may be."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import Any, Protocol

from service.taps import Taps
from service.transport import Transport

__all__ = ["DuplicateIdError", "FullError", "QuotaError", "Registered", "Registry", "Slot"]


class Registered(Protocol):
    """What the registry knows of a session."""

    @property
    def waiting(self) -> bool:
        """The stream's client vanished and may come back."""
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for people and programs."""
        ...

    def stop(self, reason: str) -> None:
        """End the stream soon; frames on their way become drops."""
        ...

    async def adopt(self, transport: Transport) -> None:
        """Go on over another connection; returns when that is over."""
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
    """One admitted connection. Release it once or often: it frees one place.

    Attributes:
        client: whose it is.
        id: of the stream, None before it has one.
        resume: the secret with which this client, and no other, can resume the stream.
        session: who serves it; set at once.
    """

    def __init__(self, registry: Registry, client: str, counts: bool) -> None:
        self._registry, self.client, self._counts = registry, client, counts
        self.id: str | None = None
        self.resume = f"resume_{secrets.token_urlsafe(32)}"  # a beginning that `redaction` knows
        self.session: Registered | None = None

    def name(self, wanted: str | None, session: Registered) -> str:
        """Give the stream its place and its id; None takes a random one.

        A stream of the same client that waits for it gives way, where it has the id, or the last
        place.

        Raises:
            DuplicateIdError: the id is taken.
            FullError, QuotaError: there is no place but for a stream that is resumed.
        """
        return self._registry._name(self, wanted or secrets.token_hex(8), session)

    def find(self, token: str) -> Registered | None:
        """The stream of this client with that secret."""
        return self._registry._find(self.client, token)

    def release(self) -> None:
        """Free the place and the id."""
        self._registry._release(self)


class Registry:
    """Admission and lookup. The event loop owns it."""

    def __init__(self, max_streams: int, per_client: int) -> None:
        self._max, self._per_client = max_streams, per_client
        self._slots: dict[Slot, None] = {}  # in the order of their coming
        self._named: dict[str, Slot] = {}
        self._resumable: dict[str, Slot] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False

    def admit(self, client: str, may_resume: bool = False) -> Slot:
        """Take a place for a client.

        Where there is none, a client that may resume is let in for each of its streams that waits
        for it: to go on with that, or to begin another in its place.

        Raises:
            FullError: there is none.
            QuotaError: the client has as many as it may.
        """
        refusal = self._refusal(client)
        if refusal is not None:
            guests = sum(slot.client == client and not slot._counts for slot in self._slots)
            waiting = sum(self._yields(slot, client) for slot in self._slots)
            if self.draining or not may_resume or guests >= waiting:
                raise refusal
        slot = Slot(self, client, counts=refusal is None)
        self._slots[slot] = None
        self._empty.clear()
        return slot

    @property
    def sessions(self) -> dict[str, Registered]:
        """Active streams by id."""
        return {name: slot.session for name, slot in self._named.items() if slot.session}

    def of(self, client: str) -> list[Registered]:
        """Active streams of one client."""
        slots = [slot for slot in self._named.values() if slot.client == client]
        return [slot.session for slot in slots if slot.session]

    def drain(self, reason: str) -> None:
        """Admit no one and end every stream, and every connection that has not become one."""
        self.draining = True
        for slot in self._slots:
            if slot.session is not None:
                slot.session.stop(reason)

    async def empty(self) -> None:
        """Wait until no stream is left."""
        await self._empty.wait()

    def _refusal(self, client: str) -> FullError | QuotaError | None:
        if self.draining:
            return FullError("the server is shutting down")
        taken = [slot for slot in self._slots if slot._counts]
        if len(taken) >= self._max:
            return FullError(f"all {self._max} streams are taken; try again later")
        if sum(slot.client == client for slot in taken) >= self._per_client:
            return QuotaError(f"you have {self._per_client} streams open; expected no more")
        return None

    def _name(self, slot: Slot, wanted: str, session: Registered) -> str:
        other = self._named.get(wanted)
        if other is not None and not self._yields(other, slot.client):
            raise DuplicateIdError(f"a stream with the id {wanted!r} is active")
        if other is not None:
            self._replace(other)
        if not slot._counts:
            refusal = self._refusal(slot.client)
            if refusal is not None:
                away = next((s for s in self._slots if self._yields(s, slot.client)), None)
                if away is None:
                    raise refusal
                self._replace(away)
            slot._counts = True
        slot.id, slot.session = wanted, session
        self._named[wanted] = slot
        self._resumable[_digest(slot.client, slot.resume)] = slot
        return wanted

    def _yields(self, slot: Slot, client: str) -> bool:
        waiting = slot.session is not None and slot.session.waiting
        return waiting and slot._counts and slot.client == client

    def _replace(self, slot: Slot) -> None:
        slot._counts = False
        if slot.session is not None:
            slot.session.stop("replaced")

    def _find(self, client: str, token: str) -> Registered | None:
        # by a digest: how long the look-up takes says nothing of the secrets
        slot = self._resumable.get(_digest(client, token))
        return None if slot is None else slot.session

    def _release(self, slot: Slot) -> None:
        if slot not in self._slots:
            return
        del self._slots[slot]
        if not self._slots:
            self._empty.set()
        if slot.id is not None and self._named.get(slot.id) is slot:
            del self._named[slot.id]
        self._resumable.pop(_digest(slot.client, slot.resume), None)


def _digest(client: str, token: str) -> str:
    return hashlib.sha256(f"{client}\0{token}".encode()).hexdigest()
