"""Ready models: calibrated, with a card that says what they are and where they come from."""

from resq_core.zoo.cards import ModelCard
from resq_core.zoo.shelf import card, load, names

__all__ = ["ModelCard", "card", "load", "names"]
