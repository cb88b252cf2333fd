"""Whether the service lives, whether it takes work, and its metrics."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.errors import Problem
from service.protocol import SUBPROTOCOL

__all__ = ["router"]

router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """New streams are admitted."""
    if request.app.state.registry.draining:
        raise Problem(503, "draining", "the server is shutting down")
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    body = request.app.state.services.metrics.render()
    return Response(body, media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/version")
async def about() -> dict[str, str]:
    """The package's version and the stream protocol it speaks."""
    return {"version": version("resq"), "protocol": SUBPROTOCOL}
