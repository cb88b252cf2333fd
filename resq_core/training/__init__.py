"""Training: in floating point, and at the precision that a network runs at (QAT)."""

from resq_core.training.float_network import FloatNetwork
from resq_core.training.losses import (
    distillation,
    heatmap_error,
    lovasz_softmax,
    matching_error,
    ohem_cross_entropy,
    squared_error,
)
from resq_core.training.network import TrainedNetwork
from resq_core.training.objects import Followed, ObjectNetwork, ObjectSource, followed
from resq_core.training.portraits import PortraitSource
from resq_core.training.sequences import (
    VOID,
    Batch,
    ClipSource,
    Source,
    StillSource,
    Stretch,
    batch_of,
)
from resq_core.training.trainer import Loss, Optimizer, Schedule, Trainer

__all__ = [
    "VOID",
    "Batch",
    "ClipSource",
    "FloatNetwork",
    "Followed",
    "Loss",
    "ObjectNetwork",
    "ObjectSource",
    "Optimizer",
    "PortraitSource",
    "Schedule",
    "Source",
    "StillSource",
    "Stretch",
    "TrainedNetwork",
    "Trainer",
    "batch_of",
    "distillation",
    "followed",
    "heatmap_error",
    "lovasz_softmax",
    "matching_error",
    "ohem_cross_entropy",
    "squared_error",
]
