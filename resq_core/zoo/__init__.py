"""Ready models: calibrated, with a card that says what they are and where they come from."""

from resq_core.zoo.cards import JOINT_SETS, ModelCard
from resq_core.zoo.shelf import PACKAGED, Shelf, card, load, names

__all__ = ["JOINT_SETS", "PACKAGED", "ModelCard", "Shelf", "card", "load", "names"]
