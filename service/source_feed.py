"""What brings a source's bytes to its decoder process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

__all__ = ["Feed", "SourceError"]


class SourceError(Exception):
    """The source cannot be had now; the message holds no credentials."""


class Feed(Protocol):
    """One connection to a source. The event loop owns it.

    kind, name, descriptors: what the decoder process is started with.
    """

    @property
    def kind(self) -> Literal["source", "camera"]: ...

    @property
    def name(self) -> str: ...

    @property
    def descriptors(self) -> Sequence[int]: ...

    @property
    def problem(self) -> str | None:
        """Why no more bytes come, where that explains more than the decoder could."""
        ...

    @property
    def whole(self) -> bool:
        """The source was finite, and all of it came."""
        ...

    def handed_over(self) -> None:
        """The decoder process has opened the source."""
        ...

    async def close(self) -> None:
        """Release its sockets."""
        ...
