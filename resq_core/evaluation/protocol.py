"""The paper's protocol: a clip cut into sequences by anchors, every frame scored.

Generic over what makes the outputs: a network in float, one quantized frame by frame, or a
stream. A stream at `W8A8->W8A0` holds each anchor's output: the baseline any saving has to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from torch import Tensor

from resq_core.errors import InputError
from resq_core.evaluation.costs import Costs
from resq_core.evaluation.plans import check_phases
from resq_core.evaluation.scores import SegmentationScore
from resq_core.tasks.pictures import Picture
from resq_core.tasks.segmentation import SegmentationTask

__all__ = ["ClipScore", "Step", "StepOutcome", "evaluate_clip"]


class StepOutcome(NamedTuple):
    """One frame: logits float [1, K, h, w], and what they cost."""

    logits: Tensor
    bops: float
    policy_bops: float
    mean_bits: float
    is_anchor: bool


Step = Callable[[Tensor], StepOutcome]
Sample = tuple[Picture, Picture]


@dataclass(frozen=True)
class ClipScore:
    """A clip's accuracy and cost over all frames and phases.

    miou, pixel_accuracy: 0 to 1. iou: by class name, None for a class neither labelled nor found.
    bops, policy_bops: mean per frame. mean_bits: mean over all frames; residual_bits: mean over
    the frames that are no anchors, None where all are. frames, anchors: how many were scored.
    by_distance: miou over the frames that are 0, 1, 2, … after their keyframe (Fig. 9); None
    where no pixel of those counts.
    """

    miou: float
    pixel_accuracy: float
    iou: dict[str, float | None]
    bops: float
    policy_bops: float
    mean_bits: float
    residual_bits: float | None
    frames: int
    anchors: int
    by_distance: tuple[float | None, ...]


def evaluate_clip(
    open_step: Callable[[], Step],
    clip: Iterable[Sample],
    task: SegmentationTask,
    ignore_index: int | None,
    phases: Sequence[int] = (0,),
) -> ClipScore:
    """Score every frame of a clip whose frames all have labels, anchors included.

    open_step: gives a fresh step, which is then called once per frame in order with the task's
    input float32 [1, 3, h, w]. The period is the step's own affair.
    clip: pictures uint8 [H, W, 3] RGB with labels uint8 [H, W]; iterated once per phase.
    phases: 1 to 1,000 frame indices, each a run through the whole clip. In phase p a second step
    is opened at frame p, so sequences begin at 0, p, p + T, p + 2T, ...; `range(T)` lets every
    frame be every position of a sequence. A phase past the end changes nothing.

    Raises InputError for a clip without frames or without a scored pixel, or a label that does
    not fit; OptionError for phases out of range.
    """
    check_phases(phases)
    score, costs = SegmentationScore(task.classes, ignore_index), Costs()
    for phase in phases:
        _run(open_step, clip, task, phase, score, costs)
    if not costs.frames:
        raise InputError("the clip has no frames")
    if not score.total.counts.any():
        raise InputError("no pixel of the clip's labels can be scored: all are the ignored value")
    means = score.means() | costs.means()
    means["by_distance"] = tuple(means["by_distance"])
    return ClipScore(**{field.name: means[field.name] for field in fields(ClipScore)})


def _run(
    open_step: Callable[[], Step],
    clip: Iterable[Sample],
    task: SegmentationTask,
    phase: int,
    score: SegmentationScore,
    costs: Costs,
) -> None:
    step, distance = open_step(), 0
    for index, (image, label) in enumerate(clip):
        if index == phase and index > 0:
            step = open_step()
        outcome = step(task.preprocess(image))
        height, width = label.shape
        distance = 0 if outcome.is_anchor else distance + 1
        score.add(task.postprocess(outcome.logits, (height, width)), label, distance)
        costs.add(*outcome[1:])
