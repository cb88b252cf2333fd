"""One HTTP GET: https only, few redirects, every wait finite, and no status taken for granted."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPErrorProcessor, ProxyHandler, Request, build_opener

from resq_core.errors import DownloadError

__all__ = ["get"]

_REDIRECTS = (301, 302, 303, 307, 308)


class _AsTheyAre(HTTPErrorProcessor):
    """Answers of any status, redirects too, come back to the caller."""

    def http_response(self, request: Request, response: Any) -> Any:
        return response

    https_response = http_response


def get(url: str, headers: Mapping[str, str], *, silence: float, redirects: int) -> HTTPResponse:
    """The answer to a GET, after at most `redirects` redirections; the caller closes it.

    Its status is any but that of a redirection. A wait for the server ends after `silence`
    seconds. Plain http is for this machine alone, and only a server on it may redirect to it.

    Raises DownloadError for an address that is not allowed, too many redirections, and a server
    that cannot be reached or does not speak HTTP.
    """
    _check(url)
    here = _is_loopback(url)
    for _ in range(redirects + 1):
        response = _once(url, headers, silence)
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or location is None:
            return response
        response.close()
        origin, url = url, urljoin(url, location)
        _check(url, f", where {origin} redirects to")
        if _is_loopback(url) and not here:
            raise DownloadError(f"{origin} redirects to {url}, which is this machine itself")
    raise DownloadError(f"more than {redirects} redirections, the last one to {url}")


def _once(url: str, headers: Mapping[str, str], silence: float) -> HTTPResponse:
    proxies = [ProxyHandler({})] if _is_loopback(url) else []
    sent = {"User-Agent": "resq", "Accept-Encoding": "identity", **headers}
    try:
        response = build_opener(_AsTheyAre, *proxies).open(
            Request(url, headers=sent), None, silence
        )
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url} cannot be fetched: {reason}") from error
    assert isinstance(response, HTTPResponse)
    return response


def _check(url: str, how: str = "") -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise DownloadError(f"{url!r}{how} is not an address: {error}") from error
    allowed = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(url))
    if not (host and allowed):
        raise DownloadError(f"{url}{how} is not allowed; expected an https:// address")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
