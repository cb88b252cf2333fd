"""One of a stream's connections, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from service.logs import about
from service.protocol import Close
from service.transport import Disconnected, Stop, Transport

__all__ = ["Connection"]

_FAREWELL_SECONDS = 3.0  # less than a server that stops waits for its streams


class Connection:
    """A transport and whether its stream is done with it.

    Attributes:
        transport: of the client.
        over: set when nothing more is sent or received here.
        request: its id in logs; empty where nobody connected.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport, self.over = transport, asyncio.Event()
        self.request = about().get("request", "")

    async def farewell(self, stop: Stop, words: Sequence[str]) -> None:
        """Say some last words and close; bounded however the client reads.

        One that does not read gets no words, only the close.
        """
        try:
            with contextlib.suppress(Disconnected, TimeoutError):
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    for text in () if stop.close is Close.SLOW_READER else words:
                        await self.transport.send(text)
                    await self.transport.close(int(stop.close), stop.reason)
        finally:
            self.over.set()
