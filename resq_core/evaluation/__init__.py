"""Metrics, labelled data sets, and the paper's way of scoring a clip."""

from resq_core.evaluation.datasets import CamVid
from resq_core.evaluation.davis import Statistics, boundary_accuracy, region_similarity
from resq_core.evaluation.miou import ConfusionMatrix
from resq_core.evaluation.pck import PCK, box_size, torso_size
from resq_core.evaluation.protocol import ClipScore, Step, StepOutcome, evaluate_clip

__all__ = [
    "PCK",
    "CamVid",
    "ClipScore",
    "ConfusionMatrix",
    "Statistics",
    "Step",
    "StepOutcome",
    "boundary_accuracy",
    "box_size",
    "evaluate_clip",
    "region_similarity",
    "torso_size",
]
