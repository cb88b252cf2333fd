"""Find and load the models that come with the package."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from resq_core.errors import UnknownModelError
from resq_core.model import QuantizedModel
from resq_core.model import load as load_saved
from resq_core.precision import Precision
from resq_core.zoo.cards import ModelCard

__all__ = ["card", "load", "names"]

_SHELF = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Models that come with the package."""
    return tuple(sorted(p.parent.name for p in _SHELF.glob("*/card.json")))


@lru_cache(maxsize=64)
def card(name: str) -> ModelCard:
    """A model's card.

    Raises:
        UnknownModelError: listing the names there are.
    """
    if name not in names():
        raise UnknownModelError(f"no model is called {name!r}; there are: {', '.join(names())}")
    return ModelCard.model_validate_json((_SHELF / name / "card.json").read_text("utf-8"))


def load(name: str, precision: str | Precision | None = None) -> QuantizedModel:
    """Load a calibrated model.

    Args:
        name: see `names`.
        precision: one of the card's; None takes the model's own default.

    Raises:
        UnknownModelError: no such model.
        PrecisionError: it does not parse.
        CalibrationError: the model is not calibrated for it.
    """
    known = card(name)
    model = load_saved(_SHELF / known.name / f"{known.name}.resq")
    return model if precision is None else model.with_precision(precision)
