"""The models on offer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.engine import EngineError
from service.errors import Problem

__all__ = ["router"]

router = APIRouter(prefix="/v1/models")


@router.get("")
async def list_models(request: Request) -> dict[str, Any]:
    """Every model's card."""
    cards = request.app.state.services.engine.models()
    return {"models": [card.model_dump(mode="json") for card in cards]}


@router.get("/{name}")
async def show_model(request: Request, name: str) -> dict[str, Any]:
    """One model's card."""
    try:
        card = request.app.state.services.engine.card(name)
    except EngineError as error:
        raise Problem(404, "unknown_model", str(error)) from error
    result: dict[str, Any] = card.model_dump(mode="json")
    return result
