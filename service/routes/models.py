"""What the server runs."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version as installed

from fastapi import APIRouter

from service.protocol import SUBPROTOCOL
from service.routes.answers import ModelList, ServedModel, ServingInfo, VersionInfo, problems
from service.routes.context import Here

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models", responses=problems())
async def list_models(here: Here) -> ModelList:
    """Models with their classes, palettes and precisions; `default` is what a stream gets.

    `serving` says which backend runs a model, on which device, and why it is not the native one;
    null before it is used for the first time.
    """
    engine = here.services.engine
    cards = [
        ServedModel(
            **card.model_dump(),
            serving=None
            if serving is None
            else ServingInfo(device=serving.device, **asdict(serving)),
        )
        for card in engine.models()
        for serving in (engine.serving(card.name),)
    ]
    return ModelList(default=here.services.config.model, models=cards)


@router.get("/version", responses=problems())
async def version() -> VersionInfo:
    """Version of the software and of its stream protocol."""
    return VersionInfo(version=installed("resq"), protocol=SUBPROTOCOL)
