"""Metrics, labelled data sets, and the paper's way of scoring a clip."""

from resq_core.evaluation.datasets import (
    CamVid,
    CityscapesStills,
    DataSet,
    LabelledClip,
    camvid_drives,
    cityscapes_snippets,
    davis_clips,
    jhmdb_clips,
)
from resq_core.evaluation.davis import Statistics, boundary_accuracy, region_similarity
from resq_core.evaluation.evaluator import Answer, Evaluator, Row
from resq_core.evaluation.miou import ConfusionMatrix
from resq_core.evaluation.pck import PCK, box_size, torso_size
from resq_core.evaluation.protocol import ClipScore, Step, StepOutcome, evaluate_clip
from resq_core.evaluation.scores import ObjectScore, PoseScore, SegmentationScore
from resq_core.evaluation.state import EvaluationState

__all__ = [
    "PCK",
    "Answer",
    "CamVid",
    "CityscapesStills",
    "ClipScore",
    "ConfusionMatrix",
    "DataSet",
    "EvaluationState",
    "Evaluator",
    "LabelledClip",
    "ObjectScore",
    "PoseScore",
    "Row",
    "SegmentationScore",
    "Statistics",
    "Step",
    "StepOutcome",
    "boundary_accuracy",
    "box_size",
    "camvid_drives",
    "cityscapes_snippets",
    "davis_clips",
    "evaluate_clip",
    "jhmdb_clips",
    "region_similarity",
    "torso_size",
]
