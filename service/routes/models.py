"""What the server runs."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version as installed
from typing import Any

from fastapi import APIRouter

from service.protocol import SUBPROTOCOL
from service.routes.context import Here

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models")
async def list_models(here: Here) -> dict[str, Any]:
    """Models with their classes, palettes and precisions; `default` is what a stream gets.

    `serving` says which backend runs a model, and why not the native one; null before it is
    used for the first time.
    """
    engine = here.services.engine
    cards = [
        card.model_dump(mode="json") | {"serving": serving and asdict(serving)}
        for card in engine.models()
        for serving in (engine.serving(card.name),)
    ]
    return {"default": here.services.config.model, "models": cards}


@router.get("/version")
async def version() -> dict[str, str]:
    """Version of the software and of its stream protocol."""
    return {"version": installed("resq"), "protocol": SUBPROTOCOL}
