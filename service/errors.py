"""Errors that cross HTTP, as RFC 9457 problem details."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from service.logs import about

__all__ = ["PROBLEM_TYPE", "Problem"]

PROBLEM_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - the RFC's own word
    """An answer to a request that went wrong.

    Args:
        status: HTTP status, 400 to 599.
        code: short and stable, for programs.
        detail: what was wrong and what was expected, for people.
        headers: further response headers.
        extra: further members of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers, self.extra = headers or {}, extra

    def body(self) -> dict[str, Any]:
        """The members of the problem document."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **({"request_id": about()["request"]} if "request" in about() else {}),
            **self.extra,
        }
