"""What every route can reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from service.access import Access
from service.jobs import Jobs
from service.pulls import Pulls
from service.registry import Registry
from service.services import Services

__all__ = ["Context", "Here"]


@dataclass(slots=True)
class Context:
    """One server's parts. `ready` turns true after warm-up; `elsewhere` has the streams of other
    servers that share the engine, described, by id.
    """

    services: Services
    registry: Registry
    jobs: Jobs
    access: Access
    pulls: Pulls
    ready: bool = False
    elsewhere: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _context(connection: HTTPConnection) -> Context:
    context: Context = connection.app.state.context
    return context


Here = Annotated[Context, Depends(_context)]
