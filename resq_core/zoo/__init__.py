"""Ready models: calibrated, with a card that says what they are and where they come from."""

from resq_core.zoo.cards import ModelCard
from resq_core.zoo.shelf import PACKAGED, Shelf, card, load, names

__all__ = ["PACKAGED", "ModelCard", "Shelf", "card", "load", "names"]
