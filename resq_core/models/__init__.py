"""The paper's networks as plain float modules, by name, and weights for them."""

from resq_core.models.catalogue import PublishedWeights
from resq_core.models.checkpoints import Conversion, convert, load_weights
from resq_core.models.registry import architecture_of, build, names
from resq_core.models.stm import STM

__all__ = [
    "STM",
    "Conversion",
    "PublishedWeights",
    "architecture_of",
    "build",
    "convert",
    "load_weights",
    "names",
]
