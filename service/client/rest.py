"""The server's REST interface: requests, and its problems as exceptions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from service.client.address import Address
from service.client.errors import KeyRefusedError, RemoteError, UnreachableError

__all__ = ["Rest"]

_MAX_PROBLEM = 1 << 20


class Rest:
    """Connections to one server.

    Args:
        address: of the server.
        timeout: seconds without a byte after which a request is given up.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._http = httpx.AsyncClient(
            base_url=address.http, headers=address.headers, timeout=timeout
        )

    async def json(self, method: str, path: str, **request: Any) -> Any:
        """The JSON of an answer, None of one without a body.

        Raises:
            UnreachableError: nothing answers.
            RemoteError: the server refuses, or breaks off.
        """
        try:
            async with self.stream(method, path, **request) as answer:
                body = await answer.aread()
                return answer.json() if body else None
        except httpx.TransportError as error:
            raise RemoteError(f"{self._address.http}: {_words(error)}") from error
        except ValueError as error:
            raise RemoteError(f"{self._address.http}{path} does not answer in JSON") from error

    @asynccontextmanager
    async def stream(self, method: str, path: str, **request: Any) -> AsyncIterator[httpx.Response]:
        """An answer whose body is still to come.

        Raises:
            UnreachableError, RemoteError: as `json`.
            httpx.TransportError: the connection breaks after that, or nothing comes for long.
        """
        try:
            async with self._http.stream(method, path, **request) as answer:
                if answer.is_error:
                    raise await _refusal(answer)
                yield answer
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UnreachableError(self._address.http, _words(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


async def _refusal(answer: httpx.Response) -> RemoteError:
    """The exception behind an answer that is a problem document, or anything else."""
    body = b""
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > _MAX_PROBLEM:
            break
    try:
        problem = httpx.Response(answer.status_code, content=body).json()
        words, code = str(problem["detail"]), str(problem["code"])
    except (ValueError, KeyError, TypeError):
        return RemoteError(f"{answer.url.path}: {answer.status_code} {answer.reason_phrase}")
    return KeyRefusedError(words) if answer.status_code == 401 else RemoteError(words, code)


def _words(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__
