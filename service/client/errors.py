"""What can go wrong between a client and a server."""

from __future__ import annotations

__all__ = ["KeyRefusedError", "OutcomeError", "RemoteError", "UnreachableError"]


class RemoteError(Exception):
    """The server refused something or closed the connection; the message is the server's.

    Attributes:
        code: the server's short word for it, as in a problem of REST; None where it gave none.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class OutcomeError(RemoteError):
    """What was accepted came to a bad end: a clip that failed, a stream that the server ended."""


class KeyRefusedError(RemoteError):
    """The server needs an API key, and got none or a wrong one."""

    def __init__(self, words: str) -> None:
        super().__init__(f"{words}; expected one in RESQ_KEY, --key or key=", "key")


class UnreachableError(RemoteError, ConnectionError):
    """Nothing answers at the address."""

    def __init__(self, url: str, why: object) -> None:
        super().__init__(f"no server answers at {url} ({why}); `resq serve` starts one")
