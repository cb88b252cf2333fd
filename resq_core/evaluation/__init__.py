"""Metrics, labelled data sets, and the paper's way of scoring a clip."""

from resq_core.evaluation.datasets import CamVid
from resq_core.evaluation.miou import ConfusionMatrix
from resq_core.evaluation.protocol import ClipScore, StepOutcome, evaluate_clip, hold

__all__ = ["CamVid", "ClipScore", "ConfusionMatrix", "StepOutcome", "evaluate_clip", "hold"]
