"""Who may do what, and how much of it. No I/O but a look at the file of keys.

Every path is covered: what no rule names needs the scope `admin`, so a forgotten route is closed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.config import Config, ConfigError
from service.errors import Problem
from service.keys import Key, KeyStore, Scope
from service.rates import Rate

__all__ = ["Access", "Asked", "Caller"]

_OPEN = re.compile(r"/|/web(/.*)?|/healthz|/readyz")
_ANY_KEY = ("/v1/models", "/v1/version", "/openapi.json")
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOOK_SECONDS = 0.5  # between two looks at whether a key was revoked
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request before anything is known of it.

    Attributes:
        method: of HTTP, or WEBSOCKET.
        path: decoded.
        address: where it comes from.
        host, origin: the headers; origin is None where there is none.
        token: the key that was sent, or None.
    """

    method: str
    path: str
    address: str
    host: str
    origin: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request counts against: a key, or an address where there is none."""

    name: str
    key: Key | None = None

    @property
    def is_admin(self) -> bool:
        """Has that scope; where there are no keys, everybody has."""
        return self.key is None or Scope.ADMIN in self.key.scopes


class Access:
    """One server's gate. The event loop owns it.

    Args:
        config: settings.

    Raises:
        ConfigError: the server would listen beyond this machine without keys, or the file of keys
            cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._keys = KeyStore(config.data_dir, config.require_keys)
        if not (self._keys.needed or config.insecure or _is_loopback(config.host)):
            raise ConfigError(
                f"RESQ_HOST is {config.host!r}, which others can reach, and there is no key; "
                "expected a key (`resq keys add NAME --scope stream`), RESQ_REQUIRE_KEYS=true, a "
                "host of this machine (127.0.0.1), or RESQ_INSECURE=true if something in front "
                "of the server keeps strangers out"
            )
        self._requests = Rate(config.requests_per_minute, 60)
        self._streams = Rate(config.streams_per_minute, 60)
        self._uploads = Rate(config.upload_bytes_per_day, 86_400)
        self._hosts = {urlsplit(origin).hostname for origin in config.allowed_origins}

    def admit(self, asked: Asked) -> Caller:
        """Let a request in.

        Raises:
            Problem: 401 without a good key, 403 for a key without the scope or a strange origin,
                421 for a strange host, 429 for too much.
        """
        stranger = Caller(_network(asked.address))
        if _OPEN.fullmatch(asked.path):
            return stranger
        try:
            self._check_host(asked)
            self._check_origin(asked)
            caller = self._identify(asked, stranger)
        except Problem:
            self._spend(self._requests, stranger, "requests_per_minute")
            raise
        if asked.method == "WEBSOCKET":
            self._spend(self._streams, caller, "streams_per_minute")
        else:
            self._spend(self._requests, caller, "requests_per_minute")
        return caller

    def upload(self, caller: Caller, count: int) -> None:
        """Count bytes of a body.

        Raises:
            Problem: 429, it is more than the rest of the day's.
        """
        wait = self._uploads.take(caller.name, count)
        if wait > 0:
            self._uploads.empty(caller.name)  # the bytes have come, whatever becomes of them
            raise self._too_much(wait, "upload_bytes_per_day")

    def announce(self, caller: Caller, count: int) -> None:
        """Look whether a body of so many bytes would pass, before any of it is read.

        Raises:
            Problem: 429.
        """
        wait = self._uploads.wait(caller.name, count)
        if wait > 0:
            raise self._too_much(wait, "upload_bytes_per_day")

    def holds(self, caller: Caller) -> bool:
        """The caller's key was not revoked since it was let in."""
        return caller.key is None or self._keys.in_use(caller.key)

    async def until_revoked(self, caller: Caller) -> None:
        """Wait until the caller's key is revoked; without end where it has none."""
        while self.holds(caller):  # noqa: ASYNC110 - another process changes the file
            await asyncio.sleep(_LOOK_SECONDS)

    def _check_host(self, asked: Asked) -> None:
        """A page may give its own name this machine's address (DNS rebinding) and is then of the
        same origin; where no key stands in its way, the name it was asked by has to be ours, or,
        where the server may be open to others, one that no page can have: an address or a single
        word."""
        if self._keys.needed:
            return
        name = _host(asked.host)[0]
        if _is_loopback(name) or name in self._hosts:
            return
        if self._config.insecure and _is_private(name):
            return
        expected = "localhost, an origin's of RESQ_ALLOWED_ORIGINS, or keys"
        if self._config.insecure:
            expected = f"an address, a name without a dot, {expected}"
        raise Problem(421, "wrong_host", f"host is {name[:60]!r}; expected {expected}")

    def _check_origin(self, asked: Asked) -> None:
        if asked.origin is None or asked.method in _SAFE:
            return
        origin = asked.origin.lower()
        if origin in self._config.allowed_origins:
            return
        scheme, _, rest = origin.partition("://")
        default = _PORTS.get(scheme)
        if default is None or _host(rest, default) != _host(asked.host, default):
            raise Problem(
                403,
                "wrong_origin",
                f"origin is {origin[:60]!r}; expected this server's, or one it allows",
            )

    def _identify(self, asked: Asked, stranger: Caller) -> Caller:
        if not self._keys.needed:
            return stranger
        if asked.path == "/metrics" and self._may_scrape(asked):
            return stranger
        if asked.token is None:
            challenge = 'Bearer realm="resq"'
            raise Problem(
                401, "no_key", "this server needs an API key", {"www-authenticate": challenge}
            )
        key = self._keys.find(asked.token)
        if key is None:
            challenge = 'Bearer realm="resq", error="invalid_token"'
            raise Problem(
                401, "bad_key", "the API key is unknown or revoked", {"www-authenticate": challenge}
            )
        scopes = _scopes(asked)
        if scopes and not set(scopes) & set(key.scopes):
            challenge = f'Bearer realm="resq", error="insufficient_scope", scope="{scopes[0]}"'
            raise Problem(
                403,
                "wrong_scope",
                f"the API key has the scopes {', '.join(key.scopes)}; "
                f"expected {' or '.join(scopes)}",
                {"www-authenticate": challenge},
            )
        return Caller(f"key {key.id}", key)

    def _may_scrape(self, asked: Asked) -> bool:
        """Loopback by name as well as by address: what a proxy on this machine hands on is not."""
        local = _is_loopback(asked.address) and _is_loopback(_host(asked.host)[0])
        return self._config.metrics_open or local

    def _spend(self, rate: Rate, caller: Caller, setting: str) -> None:
        wait = rate.take(caller.name)
        if wait > 0:
            raise self._too_much(wait, setting)

    def _too_much(self, wait: float, setting: str) -> Problem:
        seconds = math.ceil(wait)
        return Problem(
            429,
            "too_much",
            f"{setting} is {getattr(self._config, setting)} and spent; try again in {seconds} s",
            {"retry-after": str(seconds)},
        )


def _scopes(asked: Asked) -> tuple[Scope, ...]:
    """The scopes of which a path needs one; none where any key will do."""
    if asked.path in _ANY_KEY:
        return ()
    if asked.path == "/v1/streams" and asked.method == "WEBSOCKET":
        return (Scope.STREAM,)
    if asked.path == "/v1/streams" and asked.method == "GET":
        return (Scope.ADMIN, Scope.STREAM)  # without admin it lists one's own
    if asked.path == "/v1/clips" or asked.path.startswith("/v1/clips/"):
        return (Scope.CLIPS,)
    return (Scope.ADMIN,)


def _host(text: str, default: int | None = None) -> tuple[str, int | None]:
    """Name and port of `name`, `name:port` or `[address]:port`; what is neither has no name."""
    try:
        parts = urlsplit(f"//{text}")
        return parts.hostname or "", parts.port or default
    except ValueError:
        return "", default


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_private(name: str) -> bool:
    """An address or a single word: no name that can be had in the public DNS."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and "." not in name
    return True


def _network(address: str) -> str:
    """What one client can be taken to hold: an IPv4 address, or 64 bits of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return f"address {address[:64]}"
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or ipaddress.IPv6Address(int(found) >> 64 << 64)
    return f"address {found}"
