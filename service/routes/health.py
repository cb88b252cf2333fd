"""For orchestrators and Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.errors import Problem
from service.routes.context import Here

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(here: Here) -> dict[str, str]:
    """Streams can be opened: warmed up and not shutting down."""
    if here.registry.draining or not here.ready:
        state = "shutting down" if here.registry.draining else "warming up"
        raise Problem(503, "not_ready", f"the server is {state}", {"retry-after": "1"})
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(here: Here) -> Response:
    """Prometheus text format."""
    return Response(
        here.services.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )
