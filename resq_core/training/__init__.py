"""Quantization-aware training: a network learns at the precision that it runs at."""

from resq_core.training.losses import distillation, ohem_cross_entropy, squared_error
from resq_core.training.network import TrainedNetwork
from resq_core.training.sequences import ClipSource, Source, StillSource, batch_of
from resq_core.training.trainer import Schedule, Trainer

__all__ = [
    "ClipSource",
    "Schedule",
    "Source",
    "StillSource",
    "TrainedNetwork",
    "Trainer",
    "batch_of",
    "distillation",
    "ohem_cross_entropy",
    "squared_error",
]
