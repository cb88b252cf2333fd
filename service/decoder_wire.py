"""What a server and its decoder process say to each other: a fixed header, then bytes. No pickle.

The server asks, the process answers each question once. The process is not trusted: every length
is checked before it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["HEADER_SIZE", "MAX_ANSWER", "BrokenAnswer", "Kind", "Message", "receive"]

_HEADER = struct.Struct("<BxxxIqIIII")
HEADER_SIZE = _HEADER.size
MAX_ANSWER = 4096


class BrokenAnswer(ValueError):  # noqa: N818 - it names the thing
    """Bytes that are no message, or none that was expected."""


class Kind(IntEnum):
    """Questions below 16, answers from 16 on."""

    START = 1  # body: JSON; comes with the descriptors of the picture memory and of the clip
    OPEN = 2  # the clip
    DECODE = 3  # body: an access unit or a picture, `number` its seq
    FLUSH = 4
    NEXT = 5  # picture: of the clip, or of those that one access unit completed

    DONE = 16  # no picture
    FACTS = 17  # body: JSON about the clip
    FRAME = 18  # a picture stands in the memory; see Message
    REFUSED = 19  # body: reason, line feed, message
    MEMORY = 20  # the memory limit is reached


@dataclass(frozen=True, slots=True)
class Message:
    """One question or answer.

    Attributes:
        number: seq of the access unit, or index in the clip; u32.
        pts_us: microseconds since the clip's start; i64.
        width, height: of the picture in pixels; u32.
        count: of a stream the pictures that wait for NEXT, of a clip its damaged packets; u32.
        body: see Kind.
    """

    kind: Kind
    number: int = 0
    pts_us: int = 0
    width: int = 0
    height: int = 0
    count: int = 0
    body: bytes = b""

    def pack(self) -> bytes:
        """As bytes."""
        head = (self.kind, self.number, self.pts_us, self.width, self.height, self.count)
        return _HEADER.pack(*head, len(self.body)) + self.body


def receive(read: Callable[[int], bytes], max_body: int) -> Message:
    """The next message; `read` gives exactly as many bytes as it is asked for.

    Raises:
        BrokenAnswer: an unknown kind, or a body longer than `max_body`.
    """
    kind, number, pts_us, width, height, count, length = _HEADER.unpack(read(HEADER_SIZE))
    if length > max_body:
        raise BrokenAnswer(f"a message has {length} bytes; expected at most {max_body}")
    try:
        known = Kind(kind)
    except ValueError as error:
        raise BrokenAnswer(f"kind is {kind}; expected one of {list(map(int, Kind))}") from error
    return Message(known, number, pts_us, width, height, count, read(length))
