"""Free memory goes back to the system: glibc keeps what lies between pieces that are in use."""

from __future__ import annotations

import asyncio
import ctypes
import sys

__all__ = ["keep_trimmed"]

_SECONDS = 30.0


async def keep_trimmed() -> None:
    """Give free memory back twice a minute, until cancelled; at once over where glibc is not.

    Streams that come and go leave holes of many sizes in the heap. What is in use stays the same
    over thousands of them, and what the process holds would still rise for hours.
    """
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim if sys.platform == "linux" else None
    except (OSError, AttributeError):
        trim = None
    while trim is not None:
        await asyncio.sleep(_SECONDS)
        await asyncio.to_thread(trim, 0)
