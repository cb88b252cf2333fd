"""Files that outlive a crash: put in place only when whole, or cut back to where they were."""

from __future__ import annotations

import errno
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "AppendFile",
    "DamagedError",
    "Mark",
    "disk_full",
    "holds",
    "put_in_place",
    "write_in_place",
]

_CHUNK = 1 << 20


class DamagedError(ValueError):
    """A file does not begin with what was written to it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The first `size` bytes of a file, and their CRC-32."""

    size: int = 0
    crc: int = 0


def holds(path: Path, mark: Mark) -> bool:
    """Whether a file begins with what the mark was taken of."""
    if not path.is_file():
        return mark.size == 0
    left, crc = mark.size, 0
    with path.open("rb") as file:
        while left:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                return False
            left, crc = left - len(chunk), zlib.crc32(chunk, crc)
    return crc == mark.crc


class AppendFile:
    """A file that only grows. What lies behind the mark, whole lines or half ones, is cut off.

    Args:
        path: made where it is missing.
        mark: of an earlier `sync`; without one the file starts empty.

    Raises:
        DamagedError: the file does not begin with what the mark was taken of; it is left alone.
    """

    def __init__(self, path: Path, mark: Mark | None = None) -> None:
        mark = mark or Mark()
        if not holds(path, mark):
            raise DamagedError(f"{path.name} does not begin with its {mark.size} known bytes")
        self._file = path.open("ab", buffering=0)
        self._file.truncate(mark.size)
        self._size, self._crc = mark.size, mark.crc

    def append(self, data: bytes) -> None:
        """Write at the end; readers see it at once. OSError where the disk is full."""
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._size += len(data)
        self._crc = zlib.crc32(data, self._crc)

    def sync(self) -> Mark:
        """Bring everything so far to the disk; its mark."""
        os.fsync(self._file.fileno())
        return Mark(self._size, self._crc)

    def close(self) -> None:
        """Release the file; more calls do nothing."""
        self._file.close()


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its name: before a crash or after it, `path` is whole or not there."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    if os.name == "posix":  # the name itself; other systems open no folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_in_place(path: Path, text: str) -> None:
    """Write a small UTF-8 file that is whole or not there."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, "utf-8")
    put_in_place(part, path)


def disk_full(error: OSError) -> bool:
    """Whether there was no room: the disk, a quota, or the size that a file may have."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
