"""What every route can reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

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
    """One server's parts. `ready` turns true after warm-up."""

    services: Services
    registry: Registry
    jobs: Jobs
    access: Access
    pulls: Pulls
    ready: bool = False


def _context(connection: HTTPConnection) -> Context:
    context: Context = connection.app.state.context
    return context


Here = Annotated[Context, Depends(_context)]
