"""Where the server itself may connect to: hosts that the operator named, at addresses checked anew.

Who asks for a name gets addresses to connect to, and connects to these and no others: a name that
changes its address between the look and the connection (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urljoin, urlsplit

__all__ = ["AllowedHosts", "ForbiddenHostError", "Target", "parse_hosts", "parse_target"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a name that ends so is an address, however written
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PORTS = {"http": 80, "https": 443, "rtsp": 554, "mqtt": 1883, "mqtts": 8883}
_MAX_URL = 2048
_SPECIAL = ("is_loopback", "is_link_local", "is_multicast", "is_unspecified")


class ForbiddenHostError(ValueError):
    """A URL or a host that is not allowed; the message names no credentials."""


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL in parts.

    Attributes:
        host: a name in lower case, or an address without brackets.
        path: with the query, as it goes to the server.
        username, password: decoded; None where the URL had none. Never shown.
    """

    scheme: str
    host: str
    port: int
    path: str = "/"
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def authority(self) -> str:
        """Host and, unless it is the scheme's own, port, as in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The URL without userinfo and query: cameras take secrets in both."""
        return f"{self.scheme}://{self.authority}{self.path.partition('?')[0]}"

    def at(self, address: str, scheme: str | None = None) -> str:
        """The URL with an address in place of the name, without userinfo."""
        host = f"[{address}]" if ":" in address else address
        return f"{scheme or self.scheme}://{host}:{self.port}{self.path}"

    def follow(self, location: str) -> Target:
        """Where a redirect leads; credentials stay behind unless it is the same origin.

        Raises:
            ForbiddenHostError: as `parse_target`; https never leads to http.
        """
        schemes = ("https",) if self.scheme == "https" else ("http", "https")
        base = f"{self.scheme}://{self.authority}{self.path}"
        try:
            joined = urljoin(base, location)
        except ValueError:
            joined = ""
        found = parse_target(joined, schemes)
        if (found.scheme, found.host, found.port) == (self.scheme, self.host, self.port):
            return replace(found, username=self.username, password=self.password)
        return replace(found, username=None, password=None)


def parse_target(url: str, schemes: tuple[str, ...]) -> Target:
    """Read a URL strictly: what parsers read differently is refused, not guessed.

    Raises:
        ForbiddenHostError: another scheme, no host, a host in an odd form, or odd characters.
    """
    if len(url) > _MAX_URL or not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise ForbiddenHostError(
            f"the URL has odd characters or over {_MAX_URL} of them; expected plain ASCII, others "
            "percent-encoded"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
    except ValueError as error:
        raise ForbiddenHostError("the URL does not parse; expected scheme://host/path") from error
    if parts.scheme not in schemes:
        raise ForbiddenHostError(
            f"the URL's scheme is {parts.scheme[:20]!r}; expected {' or '.join(schemes)}"
        )
    if parts.netloc.count("@") > 1 or port == 0:
        raise ForbiddenHostError("the URL's host is ambiguous; expected user:password@host:port")
    _check_host(host)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    user, password = parts.username, parts.password
    return Target(
        parts.scheme,
        host,
        port or _PORTS[parts.scheme],
        path if path.startswith("/") else f"/{path}",
        None if user is None else unquote(user),
        None if password is None else unquote(password),
    )


def _check_host(host: str) -> None:
    if _address(host) is not None:
        return
    if not _NAME.fullmatch(host) or _NUMBER.fullmatch(host.rpartition(".")[2]):
        raise ForbiddenHostError(
            f"the URL's host is {host[:60]!r}; expected a name, or an address in its usual form"
        )


def _address(text: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id is not None:
            return None
        if found.ipv4_mapped is not None:
            return found.ipv4_mapped
        if found in _NAT64:
            return ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found


def parse_hosts(text: str) -> tuple[str, ...]:
    """The setting: names, `*.suffix`, addresses and networks, separated by commas.

    Raises:
        ValueError: an entry is none of these.
    """
    found = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for entry in found:
        if _network(entry) is None:
            name = entry.removeprefix("*.")
            if not _NAME.fullmatch(name) or _NUMBER.fullmatch(name.rpartition(".")[2]):
                raise ValueError(
                    f"{entry!r} is no host; expected a name, *.name, an address or a network"
                )
    return found


def _network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


class AllowedHosts:
    """What `RESQ_ALLOWED_HOSTS` says.

    A name has to be listed, by itself or under a suffix, and each of its addresses to be global or
    inside a listed network. An address as such has to be inside a listed network. Those of this
    machine, link-local ones (where clouds keep their metadata), multicast and unspecified ones only
    count as inside a network that holds nothing else: `0.0.0.0/0` does not open them.
    """

    def __init__(self, entries: tuple[str, ...]) -> None:
        networks = {entry: _network(entry) for entry in entries}
        self._networks = [found for found in networks.values() if found is not None]
        self._names = [entry for entry, found in networks.items() if found is None]

    def check(self, host: str) -> None:
        """Raise ForbiddenHostError unless the host is listed; addresses of a name come later."""
        address = _address(host)
        if not (self._lists_name(host) if address is None else self._lists(address)):
            raise ForbiddenHostError(
                f"the host {host[:60]!r} is not allowed; an operator may list it in "
                "RESQ_ALLOWED_HOSTS"
            )

    async def addresses(self, target: Target) -> list[str]:
        """Addresses to connect to, at least one, each of them allowed.

        Raises:
            ForbiddenHostError: the host is not allowed, or one of its addresses is not.
            OSError: the name has no address.
        """
        self.check(target.host)
        loop = asyncio.get_running_loop()
        kind = socket.SOCK_STREAM
        found = await loop.getaddrinfo(target.host, target.port, type=kind)
        texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        named = _address(target.host) is None
        for text in texts:
            address = _address(text)
            listed = address is not None and self._lists(address)
            if not listed and not (named and address is not None and _is_public(address)):
                raise ForbiddenHostError(
                    f"{target.host[:60]!r} has the address {text}, which is not allowed; an "
                    "operator may list its network in RESQ_ALLOWED_HOSTS"
                )
        if not texts:
            raise OSError(f"{target.host} has no address")
        return texts

    def _lists_name(self, host: str) -> bool:
        return any(
            host.endswith(entry[1:]) if entry.startswith("*.") else host == entry
            for entry in self._names
        )

    def _lists(self, address: _Address) -> bool:
        kinds = [kind for kind in _SPECIAL if getattr(address, kind)]
        return any(
            address in network and all(getattr(network, kind) for kind in kinds)
            for network in self._networks
        )


def _is_public(address: _Address) -> bool:
    return address.is_global and not any(getattr(address, kind) for kind in _SPECIAL)
