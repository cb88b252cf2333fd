"""Binary frames of `resq.v1`: a 24-byte header, JSON meta, then blobs. No I/O.

Header, little-endian: magic u8, version u8, kind u8, flags u8, seq u32, pts_us i64,
meta_len u32, reserved u32 (zero).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any

__all__ = ["HEADER_SIZE", "MAGIC", "MAX_META", "VERSION", "Flags", "Frame", "Kind", "WireError"]

MAGIC = 0x51
VERSION = 1
MAX_META = 1 << 20
_HEADER = struct.Struct("<BBBBIqII")
HEADER_SIZE = _HEADER.size


class WireError(ValueError):
    """Bytes or text that are not a message of the protocol; the message says what was expected."""


class Kind(IntEnum):
    """What the blobs of a binary frame hold."""

    IMAGE = 1  # one JPEG, PNG or WebP
    H264 = 2  # one access unit, Annex B
    VP8 = 3  # one frame
    RGB = 4  # uint8 [h, w, 3], meta {"shape": [h, w]}
    RESULT = 16


class Flags(IntFlag):
    """Bits of the header's flags byte."""

    NONE = 0
    IDR = 1  # the codec's own key picture
    ANCHOR = 2  # the result of a ResQ keyframe; on an input frame: run it as one
    DISCONT = 4  # frames are missing before this one
    LAST = 8  # no frame follows


_ALL_FLAGS = int(Flags.IDR | Flags.ANCHOR | Flags.DISCONT | Flags.LAST)


@dataclass(frozen=True, slots=True)
class Frame:
    """One binary frame.

    Attributes:
        kind: what `body` holds.
        seq: 0 to 2**32 - 1; grows from frame to frame in one direction.
        pts_us: presentation time in microseconds, signed 64 bits; the sender's own clock.
        body: the blobs, one after another.
        meta: a JSON object.
        flags: see `Flags`.
    """

    kind: Kind
    seq: int
    pts_us: int
    body: bytes
    meta: dict[str, Any] = field(default_factory=dict)
    flags: Flags = Flags.NONE

    def pack(self) -> bytes:
        """The bytes of one WebSocket message.

        Raises:
            WireError: a number does not fit its field, or the meta is too long.
        """
        meta = json.dumps(self.meta, separators=(",", ":"), allow_nan=False).encode()
        if not self.meta:
            meta = b""
        if len(meta) > MAX_META:
            raise WireError(f"meta has {len(meta)} bytes; expected at most {MAX_META}")
        try:
            head = _HEADER.pack(
                MAGIC, VERSION, self.kind, self.flags, self.seq, self.pts_us, len(meta), 0
            )
        except struct.error as error:
            raise WireError(f"seq {self.seq} or pts_us {self.pts_us} is out of range") from error
        return b"".join((head, meta, self.body))

    @classmethod
    def unpack(cls, data: bytes) -> Frame:
        """Read one WebSocket message.

        Raises:
            WireError: it is not a frame of this protocol and version.
        """
        if len(data) < HEADER_SIZE:
            raise WireError(
                f"a binary frame has {len(data)} bytes; expected a header of {HEADER_SIZE}"
            )
        magic, version, kind, flags, seq, pts_us, meta_len, reserved = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise WireError(f"a binary frame starts with 0x{magic:02x}; expected 0x{MAGIC:02x}")
        if version != VERSION:
            raise WireError(f"frame version is {version}; expected {VERSION}")
        if kind not in list(Kind):
            raise WireError(f"frame kind is {kind}; expected one of {[int(k) for k in Kind]}")
        if flags & ~_ALL_FLAGS or reserved:
            raise WireError("unknown flags or reserved bits are set; expected zeros")
        end = HEADER_SIZE + meta_len
        if meta_len > MAX_META or end > len(data):
            raise WireError(f"meta_len is {meta_len}; the message has {len(data)} bytes in all")
        meta = load_object(data[HEADER_SIZE:end], "meta") if meta_len else {}
        return cls(Kind(kind), seq, pts_us, data[end:], meta, Flags(flags))

    def blobs(self) -> dict[str, tuple[dict[str, Any], bytes]]:
        """The blobs named by `meta["blobs"]`: name -> (descriptor, bytes).

        Raises:
            WireError: descriptors and body do not agree.
        """
        found: dict[str, tuple[dict[str, Any], bytes]] = {}
        start = 0
        descriptors = self.meta.get("blobs", [])
        if not isinstance(descriptors, list):
            raise WireError("meta.blobs is not a list")
        for item in descriptors:
            if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                raise WireError("meta.blobs: expected objects with name, format, size and shape")
            size = item.get("size")
            if type(size) is not int or not 0 <= size <= len(self.body) - start:
                raise WireError(f"meta.blobs: {item['name']} has a size that the body does not")
            found[item["name"]] = (item, self.body[start : start + size])
            start += size
        if start != len(self.body):
            raise WireError(f"{len(self.body) - start} bytes of the body belong to no blob")
        return found


def load_object(data: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        WireError: it is not one; `what` names it in the message.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise WireError(f"{what} is a JSON {type(value).__name__}; expected an object")
    return value
