"""One member out of an archive: its name chooses what is read, never where it is written."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from resq_core.errors import DownloadError

__all__ = ["extract"]

_CHUNK = 1 << 20
_SPREAD = 8  # a tar is read up to this many times the limit until its member comes


def extract(archive: Path, member: str, target: Path, limit: int) -> None:
    """Write one plain file of a zip or gzipped tar archive to `target`.

    Args:
        archive: `.zip`, `.tar.gz` or `.tgz`.
        member: its path inside, relative and without `..`.
        target: the file to write; it is removed again where extraction fails.
        limit: bytes that the member may have.

    Raises:
        DownloadError: for a member that is absent, ambiguous, a link, encrypted or too large, and
            for a damaged archive.
    """
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or not path.parts:
        raise DownloadError(f"{member!r} is no path inside an archive: relative, without '..'")
    reader = _from_zip if archive.suffix == ".zip" else _from_tar
    try:
        reader(archive, str(path), target, limit)
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error) as error:
        target.unlink(missing_ok=True)
        raise DownloadError(f"{archive} cannot be unpacked: {error}") from error
    except DownloadError:
        target.unlink(missing_ok=True)
        raise


def _from_zip(archive: Path, member: str, target: Path, limit: int) -> None:
    with zipfile.ZipFile(archive) as opened:
        found = [info for info in opened.infolist() if info.filename == member]
        if len(found) != 1:
            raise DownloadError(f"{archive} has {len(found)} members called {member}; expected one")
        info = found[0]
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
            raise DownloadError(f"{member} in {archive} is no plain, readable file")
        _check(archive, member, info.file_size, limit)
        with opened.open(info) as source:
            _copy(source, target, info.file_size)


def _from_tar(archive: Path, member: str, target: Path, limit: int) -> None:
    with gzip.open(archive) as unpacked:
        stream = _Bounded(unpacked, _SPREAD * limit, archive)
        with tarfile.open(fileobj=stream, mode="r|") as opened:  # type: ignore[call-overload]
            for info in opened:
                if info.name.removeprefix("./") != member:
                    continue
                source = opened.extractfile(info) if info.isreg() else None
                if source is None:
                    raise DownloadError(f"{member} in {archive} is no plain file")
                _check(archive, member, info.size, limit)
                _copy(source, target, info.size)
                return
    raise DownloadError(f"{archive} has no member called {member}")


class _Bounded:
    """A stream that ends in an error where it turns out too long."""

    def __init__(self, source: io.BufferedIOBase, limit: int, archive: Path) -> None:
        self._source, self._left, self._archive = source, limit, archive

    def read(self, size: int) -> bytes:
        piece = self._source.read(size)
        self._left -= len(piece)
        if self._left < 0:
            raise DownloadError(f"{self._archive} is too large once unpacked")
        return piece


def _check(archive: Path, member: str, size: int, limit: int) -> None:
    if size > limit:
        raise DownloadError(f"{member} in {archive} has {size} bytes; the limit is {limit}")


def _copy(source: IO[bytes], target: Path, size: int) -> None:
    left = size
    with target.open("wb") as file:
        while left > 0 and (piece := source.read(min(_CHUNK, left))):
            file.write(piece)
            left -= len(piece)
    if left:
        raise EOFError(f"it ends {left} bytes early")
