"""What a key is for."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Scope"]


class Scope(StrEnum):
    """What a key may be used for; no scope includes another."""

    STREAM = "stream"
    CLIPS = "clips"
    ADMIN = "admin"
