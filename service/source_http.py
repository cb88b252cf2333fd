"""A source over HTTP: fetched by the server, piped to the decoder process, which has no network."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from typing import Literal

import httpx

from service.outbound import AllowedHosts, Target
from service.source_feed import SourceError

__all__ = ["HttpFeed", "open_http", "tls"]

_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


@functools.cache
def tls() -> ssl.SSLContext:
    """The certificates that httpx trusts, read once."""
    return httpx.create_ssl_context()


class HttpFeed:
    """See `Feed`. Bytes go on as they come; a decoder that is behind slows the source down."""

    kind: Literal["source"] = "source"
    name = ""

    def __init__(self, client: httpx.AsyncClient, response: httpx.Response) -> None:
        self._client, self._response = client, response
        self._finite = "content-length" in response.headers
        self.problem: str | None = None
        self.whole = False
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.descriptors = [self._theirs.fileno()]
        self._pumping = asyncio.create_task(self._pump())

    def handed_over(self) -> None:
        """The decoder process has a copy of its end."""

    async def close(self) -> None:
        """Release the connection and the pipe."""
        self._pumping.cancel()
        await asyncio.wait([self._pumping])
        self._ours.close()
        self._theirs.close()
        await self._response.aclose()
        await self._client.aclose()

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for chunk in self._response.aiter_raw():
                await loop.sock_sendall(self._ours, chunk)
            self.whole = self._finite
        except httpx.TimeoutException:
            self.problem = "the source went silent"
        except httpx.HTTPError as error:
            self.problem = f"the source broke off: {type(error).__name__}"
        except OSError:
            self.problem = "the decoder is gone"
        finally:
            with contextlib.suppress(OSError):
                self._ours.shutdown(socket.SHUT_WR)


async def open_http(target: Target, hosts: AllowedHosts, seconds: float) -> HttpFeed:
    """Fetch a URL, through redirects, each of them checked.

    Args:
        seconds: to wait for a connection, and for bytes.

    Raises:
        ForbiddenHostError: a host on the way is not allowed.
        SourceError: it answered with something else than a body.
        OSError: a name has no address.
    """
    client = httpx.AsyncClient(verify=tls(), trust_env=False, timeout=httpx.Timeout(seconds))
    try:
        return HttpFeed(client, await _respond(client, target, hosts))
    except BaseException as error:
        await client.aclose()
        if isinstance(error, (httpx.HTTPError, httpx.InvalidURL)):
            raise SourceError(f"{target.shown} does not answer: {_why(error)}") from error
        raise


async def _respond(
    client: httpx.AsyncClient, target: Target, hosts: AllowedHosts
) -> httpx.Response:
    for _ in range(_MAX_REDIRECTS + 1):
        address = (await hosts.addresses(target))[0]
        request = client.build_request(
            "GET",
            target.at(address),
            headers={"host": target.authority, "accept-encoding": "identity"},
            extensions={"sni_hostname": target.host},
        )
        auth = None
        if target.username is not None:
            auth = httpx.BasicAuth(target.username, target.password or "")
        response = await client.send(request, stream=True, auth=auth)
        location = response.headers.get("location")
        if response.status_code not in _REDIRECTS or location is None:
            if response.status_code != 200:
                await response.aclose()
                raise SourceError(f"{target.shown} answers with {response.status_code}")
            return response
        await response.aclose()
        target = target.follow(location)
    raise SourceError(f"over {_MAX_REDIRECTS} redirects")


def _why(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return type(error).__name__
