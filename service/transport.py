"""What a session needs of a connection, and how one ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from service.protocol import Close

__all__ = ["Disconnected", "Stop", "Transport"]


class Disconnected(Exception):  # noqa: N818 - an end, not an error
    """The client is gone.

    Args:
        vanished: it did not say so: its connection broke, and it may come back over another.
    """

    def __init__(self, vanished: bool = False) -> None:
        super().__init__()
        self.vanished = vanished


class Transport(Protocol):
    """A client as a session sees it. All raise Disconnected when it is gone; only that of `receive`
    tells whether the client vanished.

    trusted: it may send results to other hosts and to files.
    """

    trusted: bool

    def describe(self) -> dict[str, Any]:
        """Facts about the client, for people and programs."""
        ...

    async def receive(self) -> str | bytes:
        """The next message."""
        ...

    async def send(self, data: str | bytes) -> None:
        """Send; waits while the client does not read."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close with a code."""
        ...


@dataclass(frozen=True, slots=True)
class Stop:
    """Why and how a connection ends."""

    close: Close
    reason: str
