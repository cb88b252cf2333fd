"""A source over RTSP: FFmpeg talks to it through a relay on this machine, which watches it.

FFmpeg follows the redirects of an RTSP server to any host; the relay lets none through, and
connects to the address that was checked. From the moment the decoder process can open no further
socket the relay only copies.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import Literal
from urllib.parse import quote

from service.outbound import AllowedHosts, Target
from service.source_feed import SourceError

__all__ = ["RtspFeed", "RtspFilter", "open_rtsp"]

_CHUNK = 64 * 1024
_MAX_HEAD = 16 * 1024
_MAX_BODY = 256 * 1024
_STATUS = re.compile(rb"RTSP/1\.\d ([0-9]{3})( [^\r\n]*)?")
_REQUEST = re.compile(rb"(OPTIONS|GET_PARAMETER|SET_PARAMETER|ANNOUNCE) [^\s]+ RTSP/1\.\d")
_HEADER = re.compile(rb"[^\s:$][^\s:]*:[^\r\n]*")
_LENGTH = re.compile(rb"content-length:[ \t]*([0-9]{1,9})[ \t]*", re.IGNORECASE)


class RtspFilter:
    """What a server sends, message by message, as strictly as RFC 2326 allows: what FFmpeg could
    read in another way is refused, so that no redirect hides in it. No I/O."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Whole messages so far.

        Raises:
            SourceError: a redirect, or no RTSP.
        """
        self._waiting += data
        end = 0
        while (size := self._size(end)) is not None:
            end += size
        ready = bytes(self._waiting[:end])
        del self._waiting[:end]
        return ready

    def rest(self) -> bytes:
        """Take what has come of a message that is not whole."""
        rest = bytes(self._waiting)
        self._waiting.clear()
        return rest

    def _size(self, start: int) -> int | None:
        """Bytes of the message there; None while it is not whole."""
        left = len(self._waiting) - start
        if left and self._waiting[start] == ord("$"):  # media between the answers
            if left < 4:
                return None
            size = 4 + int.from_bytes(self._waiting[start + 2 : start + 4], "big")
            return size if left >= size else None
        end = self._waiting.find(b"\r\n\r\n", start, start + _MAX_HEAD)
        if end < 0:
            if left > _MAX_HEAD:
                raise SourceError("the source sends no RTSP: a header without end")
            return None
        body = _body_size(bytes(self._waiting[start:end]))
        size = end + 4 - start + body
        return size if left >= size else None


def _body_size(head: bytes) -> int:
    first, *headers = head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None and not _REQUEST.fullmatch(first):
        raise SourceError("the source sends no RTSP: a line that is neither answer nor request")
    if status is not None and status[1].startswith(b"3"):
        raise SourceError("the source redirects, which RTSP sources may not")
    if not all(_HEADER.fullmatch(line) for line in headers):
        raise SourceError("the source sends no RTSP: a malformed header")
    lengths = [line for line in headers if line.lower().startswith(b"content-length")]
    found = [_LENGTH.fullmatch(line) for line in lengths]
    if len(found) > 1 or None in found:
        raise SourceError("the source sends no RTSP: a malformed length")
    size = int(found[0][1]) if found and found[0] is not None else 0
    if size > _MAX_BODY:
        raise SourceError(f"the source sends a description of over {_MAX_BODY} bytes")
    return size


class _OverError(Exception):
    """One side closed the connection."""


class RtspFeed:
    """See `Feed`. The relay takes one connection."""

    kind: Literal["camera"] = "camera"
    descriptors: Sequence[int] = ()
    whole = False  # a file that ends is played again

    def __init__(
        self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._target, self._reader, self._writer = target, reader, writer
        self.problem: str | None = None
        self.name = ""
        self._filter, self._piping = RtspFilter(), False
        self._server: asyncio.Server | None = None
        self._relaying: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Be ready for the decoder process."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK)
        self._server = server
        port = server.sockets[0].getsockname()[1]
        user = self._target.username
        word = quote(self._target.password or "", "")
        login = "" if user is None else f"{quote(user, '')}:{word}@"
        self.name = f"rtsp://{login}127.0.0.1:{port}{self._target.path}"

    def handed_over(self) -> None:
        """The process opens nothing any more: from here on bytes are copied."""
        self._piping = True

    async def close(self) -> None:
        """Release every socket."""
        if self._server is not None:
            self._server.close()
        if self._relaying is not None:
            self._relaying.cancel()
            await asyncio.wait([self._relaying])
        await _closed(self._writer)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._relaying is not None or self._server is None:
            writer.close()
            return
        self._server.close()
        self._relaying = asyncio.create_task(self._relay(reader, writer))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, self._writer))
                group.create_task(self._down(writer))
        except* SourceError as errors:
            self.problem = str(errors.exceptions[0])
        except* (_OverError, OSError):
            pass  # the decoder's own message says more
        finally:
            self._writer.close()
            await _closed(writer)

    async def _down(self, writer: asyncio.StreamWriter) -> None:
        """From the source to the decoder process."""
        while data := await self._reader.read(_CHUNK):
            writer.write(self._filter.rest() + data if self._piping else self._filter.feed(data))
            await writer.drain()
        raise _OverError


async def open_rtsp(target: Target, hosts: AllowedHosts, seconds: float) -> RtspFeed:
    """Connect to a source and be its relay.

    Raises:
        ForbiddenHostError: the host is not allowed.
        SourceError: it does not answer in time.
        OSError: it cannot be reached.
    """
    address = (await hosts.addresses(target))[0]
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(address, target.port, limit=_CHUNK)
    except TimeoutError as error:
        raise SourceError(f"{target.shown} does not answer: no connection in time") from error
    feed = RtspFeed(target, reader, writer)
    try:
        await feed.listen()
    except BaseException:
        await feed.close()
        raise
    return feed


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    raise _OverError


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
