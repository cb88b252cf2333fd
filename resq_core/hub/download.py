"""One file over HTTP: resumed, limited, verified, and in place only when it is whole."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from resq_core.errors import DownloadError
from resq_core.hub.http_get import get
from resq_core.hub.partial import Partial
from resq_core.models.checkpoint_files import sha256_of

__all__ = ["Limits", "Progress", "StoppedError", "download", "sha256_matches"]

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the bytes in all (None where the server does not say)."""

_CHUNK = 1 << 18


class StoppedError(DownloadError):
    """The server stopped midway; what came is kept and the next call goes on from there."""


@dataclass(frozen=True)
class Limits:
    """What a download may take.

    Attributes:
        bytes: of the file.
        seconds: of one call.
        silence: seconds without a byte from the server.
        redirects: in a row.
    """

    bytes: int = 4 << 30
    seconds: float = 6 * 3600.0
    silence: float = 30.0
    redirects: int = 5


def download(
    url: str,
    target: Path,
    sha256: str | None = None,
    size: int | None = None,
    limits: Limits = Limits(),
    progress: Progress | None = None,
) -> str:
    """Fetch a file, going on from the `.part` of an earlier call where the server can.

    Args:
        url: https, or http on this machine.
        target: the file; its folder is made. It appears only once it is whole and verified.
        sha256: 64 digits or the first of them, None if unknown.
        size: bytes, None if unknown.
        limits: see there.
        progress: called after every piece.

    Returns:
        The file's sha256.

    Raises:
        StoppedError: the server stopped midway; what came is kept for the next call.
        DownloadError: the address, the server or the file is not as it must be; a wrong file is
            removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Partial(target, url)
    _fetch(url, partial, size, limits, progress or (lambda done, total: None))
    if size is not None and partial.size != size:
        got = partial.size
        partial.discard()
        raise DownloadError(f"{url} gave {got} bytes; expected {size}")
    digest = sha256_of(partial.path)
    if not sha256_matches(digest, sha256):
        partial.discard()
        raise DownloadError(f"{url} gave a file with sha256 {digest}; expected {sha256}")
    partial.finish(target)
    return digest


def sha256_matches(digest: str, sha256: str | None) -> bool:
    """Whether a digest is the expected one or begins with it; None expects nothing."""
    return sha256 is None or digest.startswith(sha256)


def _fetch(
    url: str, partial: Partial, size: int | None, limits: Limits, progress: Progress
) -> None:
    deadline = time.monotonic() + limits.seconds
    response = _ask(url, partial, limits)
    with response:
        start, total = _span(response, partial)
        _check_total(url, total if total is not None else size, limits)
        if not start:
            partial.begin(_validator(response))
        try:
            done = _copy(response, partial, start, total, limits, deadline, progress)
        except (HTTPException, OSError) as error:
            raise _stopped(url, partial, total, str(error) or type(error).__name__) from error
    if done > limits.bytes:
        partial.discard()
        raise DownloadError(f"{url} gives more than {limits.bytes} bytes, the limit")
    if total is not None and done < total:
        raise _stopped(url, partial, total, "the server closed the connection")


def _ask(url: str, partial: Partial, limits: Limits) -> HTTPResponse:
    """An answer with the rest of the file, or with all of it."""
    done = partial.size
    if done:
        headers = {"Range": f"bytes={done}-"}
        if partial.validator:
            headers["If-Range"] = partial.validator
        response = get(url, headers, silence=limits.silence, redirects=limits.redirects)
        if response.status == 200 or (response.status == 206 and _range(response)[0] == done):
            return response
        response.close()
        partial.discard()
    response = get(url, {}, silence=limits.silence, redirects=limits.redirects)
    if response.status != 200 or response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise DownloadError(
            f"{url} answers {response.status} {response.reason}; expected 200 and the file as it is"
        )
    return response


def _range(response: HTTPResponse) -> tuple[int | None, int | None]:
    """First byte of a partial answer, and length of the whole file, as far as it says."""
    found = re.fullmatch(
        r"bytes (\d{1,18})-\d{1,18}/(?:(\d{1,18})|\*)", response.headers.get("Content-Range", "")
    )
    if not found:
        return None, None
    return int(found[1]), int(found[2]) if found[2] else None


def _span(response: HTTPResponse, partial: Partial) -> tuple[int, int | None]:
    """Where the answer's first byte belongs, and the length of the whole file if known."""
    if response.status == 206:
        rest, total = response.length, _range(response)[1]
        known = total if total is not None or rest is None else partial.size + rest
        return partial.size, known
    return 0, response.length


def _validator(response: HTTPResponse) -> str:
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _check_total(url: str, total: int | None, limits: Limits) -> None:
    if total is not None and total > limits.bytes:
        raise DownloadError(f"{url} has {total} bytes; the limit is {limits.bytes}")


def _copy(
    response: HTTPResponse,
    partial: Partial,
    start: int,
    total: int | None,
    limits: Limits,
    deadline: float,
    progress: Progress,
) -> int:
    """Bytes in the partial file at the end of the answer, or just above the limit."""
    done = start
    with partial.path.open("ab" if start else "wb") as file:
        progress(done, total)
        while done <= limits.bytes and (piece := response.read1(_CHUNK)):
            file.write(piece)
            done += len(piece)
            progress(done, total)
            if time.monotonic() > deadline:
                raise TimeoutError(f"it took more than {limits.seconds:g} seconds")
    return done


def _stopped(url: str, partial: Partial, total: int | None, reason: str) -> StoppedError:
    of = "" if total is None else f" of {total}"
    return StoppedError(
        f"{url} stopped after {partial.size}{of} bytes ({reason}); pull again to go on from there"
    )
