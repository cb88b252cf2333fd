"""The paper's networks as plain float modules, by name, and weights for them."""

from resq_core.models.catalogue import PublishedWeights
from resq_core.models.checkpoints import Conversion, convert, load_weights, options_in
from resq_core.models.ddrnet import DDRNet
from resq_core.models.registry import architecture_of, build, names, options_of
from resq_core.models.stm import STM, load_backbone

__all__ = [
    "STM",
    "Conversion",
    "DDRNet",
    "PublishedWeights",
    "architecture_of",
    "build",
    "convert",
    "load_backbone",
    "load_weights",
    "names",
    "options_in",
    "options_of",
]
