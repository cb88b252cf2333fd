"""A download on its way: the bytes so far, and what they are bytes of."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["Partial"]


class Partial:
    """`FILE.part` beside the file to come, and a note of its origin in `FILE.part.json`."""

    def __init__(self, target: Path, url: str) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        self._url = url
        known = self._read_note()
        self.validator = known.get("validator", "")
        if known.get("url") != url:
            self.discard()

    @property
    def size(self) -> int:
        """Bytes that need not be fetched again."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def begin(self, validator: str) -> None:
        """Start from nothing; the validator, empty if there is none, tells versions apart."""
        self.discard()
        self.validator = validator
        self._note.write_text(json.dumps({"url": self._url, "validator": validator}), "utf-8")

    def finish(self, target: Path) -> None:
        """All bytes are there: the file takes its place in one step."""
        self.path.replace(target)
        self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the bytes and the note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _read_note(self) -> dict[str, str]:
        try:
            note = json.loads(self._note.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(k): str(v) for k, v in note.items()} if isinstance(note, dict) else {}
