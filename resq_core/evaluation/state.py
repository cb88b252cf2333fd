"""What an evaluation has finished, in a file, so that an interrupted one goes on from there.

A line of JSON each: first what the evaluation is of, then the records of finished clips.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from resq_core.errors import InputError, OptionError

__all__ = ["EvaluationState"]

_FORMAT = 1


class EvaluationState:
    """Records by row and clip, in memory and in a file.

    Args:
        path: made where it is missing; None keeps nothing beyond this object. A last line that
            was not written to its end is cut off.
        about: what the evaluation is of, as values that JSON can hold.

    Raises:
        OptionError: the file belongs to an evaluation of something else.
        InputError: the file is no state, or damaged.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self._records: dict[tuple[str, str], Any] = {}
        self._file: FileIO | None = None
        if path is None:
            return
        header = {"format": _FORMAT, **about}
        whole = _read(path)
        lines = whole.splitlines()
        if lines:
            _check_header(path, lines[0], header)
        for number, line in enumerate(lines[1:], 2):
            try:
                found = json.loads(line)
                self._records[str(found["row"]), str(found["clip"])] = found["record"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path} is damaged at line {number}; delete it to begin again"
                ) from error
        self._file = path.open("ab", buffering=0)
        self._file.truncate(len(whole))
        if not lines:
            self._append(header)

    def __enter__(self) -> EvaluationState:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def get(self, row: str, clip: str) -> Any | None:
        """The record of a clip in a row; None where it is not finished."""
        return self._records.get((row, clip))

    def add(self, row: str, clip: str, record: Any) -> None:
        """Keep a finished clip. OSError where the disk is full."""
        self._records[row, clip] = record
        if self._file is not None:
            self._append({"row": row, "clip": clip, "record": record})

    def _append(self, value: Mapping[str, Any]) -> None:
        assert self._file is not None
        left = memoryview(json.dumps(value).encode() + b"\n")
        while left:
            left = left[self._file.write(left) :]
        os.fsync(self._file.fileno())


def _read(path: Path) -> bytes:
    """All whole lines of the file; nothing where there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{path} cannot be read as an evaluation's state: {error}") from error
    return content[: content.rfind(b"\n") + 1]


def _check_header(path: Path, line: bytes, ours: Mapping[str, Any]) -> None:
    try:
        theirs = json.loads(line)
    except ValueError:
        theirs = None
    if not isinstance(theirs, dict) or "format" not in theirs:
        raise InputError(f"{path} holds something else; expected the state of an evaluation")
    same = json.loads(json.dumps(ours))
    differ = [name for name in {**theirs, **same} if theirs.get(name) != same.get(name)]
    if differ:
        words = ", ".join(
            f"{n} is {theirs.get(n)!r} there and {same.get(n)!r} here" for n in differ
        )
        raise OptionError(f"{path} belongs to another evaluation: {words}; give another file")
