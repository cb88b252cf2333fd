"""What to say of a name that nothing has."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["nearest", "not_known"]


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean X? `, of the known name that is most alike; empty where none is."""
    found = get_close_matches(name, list(known), 1)
    return f"did you mean {found[0]}? " if found else ""


def not_known(what: str, name: str, known: Iterable[str]) -> str:
    """A message for people: what was asked for, what is most like it, and all there are.

    Args:
        what: for example `no model is`.
        name: what was asked for.
        known: every name there is.
    """
    known = list(known)
    return f"{what} called {name!r}; {nearest(name, known)}there are: {', '.join(known)}"
