"""A network that can be cut: a TCP proxy of one client, which holds back what it was given."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Network", "network"]


class Network:
    """Forwards both ways between `cut` and `mend`; cut, it takes nothing and gives nothing.

    No end learns of a cut: connections stay open, as where a cable was pulled.
    """

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("http://").split(":")
        self._target = host, int(port)
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    def cut(self) -> None:
        """Forward nothing from now on."""
        self._whole.clear()

    def mend(self) -> None:
        """Go on, with what was held back first."""
        self._whole.set()

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        there, back = await asyncio.open_connection(*self._target, limit=1 << 16)
        ways = (
            asyncio.create_task(self._forward(reader, back)),
            asyncio.create_task(self._forward(there, writer)),
        )
        self._tasks.update(ways)
        try:
            await asyncio.gather(*ways)
        finally:
            for one in (writer, back):
                one.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self._whole.wait()
                data = await reader.read(1 << 14)
                await self._whole.wait()
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    def stop(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def network(address: str) -> AsyncIterator[Network]:
    """A network between its `address` and a server's."""
    between = Network(address)
    server = await asyncio.start_server(between.join, "127.0.0.1", 0, limit=1 << 16)
    between.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield between
    finally:
        server.close()
        between.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*between._tasks, return_exceptions=True)
