"""One process at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resq_core.errors import DownloadError

if sys.platform != "win32":
    import fcntl

__all__ = ["alone_with"]


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Keep other processes from fetching the same file; the lock ends with this one at the latest.

    On Windows nothing is locked.

    Raises DownloadError where another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DownloadError(f"another process is fetching {path} just now") from error
        yield
