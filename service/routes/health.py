"""For orchestrators and Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.errors import Problem
from service.routes.answers import Status, binary, problems
from service.routes.context import Context, Here

__all__ = ["router"]

router = APIRouter(tags=["health"])
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz", responses=problems(guarded=False))
async def healthz() -> Status:
    """The process lives."""
    return Status(status="ok")


@router.get("/readyz", responses=problems(503, guarded=False))
async def readyz(here: Here) -> Status:
    """Streams can be opened: warmed up and not shutting down."""
    if not _is_ready(here):
        state = "shutting down" if here.registry.draining else "warming up"
        raise Problem(503, "not_ready", f"the server is {state}", {"retry-after": "1"})
    return Status(status="ready")


@router.get("/metrics", response_class=Response, responses=problems() | binary(_TEXT))
async def metrics(here: Here) -> Response:
    """Prometheus text format."""
    here.services.metrics.ready.set(_is_ready(here))
    return Response(here.services.metrics.render(), media_type=_TEXT)


def _is_ready(here: Context) -> bool:
    return here.ready and not here.registry.draining
