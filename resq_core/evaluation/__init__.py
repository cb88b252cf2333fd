"""Metrics, labelled data sets, and the paper's way of scoring a clip."""

from resq_core.evaluation.datasets import CamVid
from resq_core.evaluation.miou import ConfusionMatrix
from resq_core.evaluation.pck import PCK, box_size, torso_size
from resq_core.evaluation.protocol import ClipScore, Step, StepOutcome, evaluate_clip

__all__ = [
    "PCK",
    "CamVid",
    "ClipScore",
    "ConfusionMatrix",
    "Step",
    "StepOutcome",
    "box_size",
    "evaluate_clip",
    "torso_size",
]
