"""Where a server is, and what a client shows at its door."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from resq_core.errors import OptionError
from service import DEFAULT_URL

__all__ = ["DEFAULT_URL", "Address"]

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address in both schemes, without a slash at the end.

    Attributes:
        http, websocket: `http(s)://host:port` and `ws(s)://host:port`.
        headers: of every request; the key is in them.
    """

    http: str
    websocket: str
    headers: dict[str, str] = field(repr=False)

    @classmethod
    def of(cls, url: str, key: str | None) -> Address:
        """The address behind a URL.

        Args:
            url: `http://host:port`, or with https, ws or wss.
            key: None takes RESQ_KEY, and none where that is unset.

        Raises:
            OptionError: it is something else.
        """
        try:
            parts = urlsplit(url)
            known = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:  # of the port
            known = False
        if not known or parts.username is not None:
            raise OptionError(f"url is {_shown(url)!r}; expected http://host:port")
        rest = url.partition("://")[2].rstrip("/")
        secure = _SCHEMES[parts.scheme] == "wss"
        key = key or os.environ.get("RESQ_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return cls(f"http{'s' * secure}://{rest}", f"ws{'s' * secure}://{rest}", headers)


def _shown(url: str) -> str:
    """Without what may be a password."""
    return url.rpartition("@")[2][:100]
