"""Metrics, labelled data sets, and the paper's way of scoring a clip."""

from resq_core.evaluation.datasets import CamVid
from resq_core.evaluation.miou import ConfusionMatrix
from resq_core.evaluation.protocol import ClipScore, Step, StepOutcome, evaluate_clip

__all__ = ["CamVid", "ClipScore", "ConfusionMatrix", "Step", "StepOutcome", "evaluate_clip"]
