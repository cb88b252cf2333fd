"""What is known about a model of the zoo."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from resq_core.naming import nearest
from resq_core.tasks import AIC14, COCO17, JHMDB15, MPII16, JointSet, PoseTask, SegmentationTask
from resq_core.tasks.vos import DAVIS_PALETTE

__all__ = ["JOINT_SETS", "ModelCard", "Task"]

Task = Literal["segmentation", "pose", "vos"]

DAVIS_COLOURS = tuple((int(r), int(g), int(b)) for r, g, b in DAVIS_PALETTE)
JOINT_SETS = {"coco17": COCO17, "mpii16": MPII16, "jhmdb15": JHMDB15, "aic14": AIC14}


class ModelCard(BaseModel):
    """A model's card, as stored in `card.json` beside its weights.

    Attributes:
        name: what `zoo.load` takes.
        title: for people.
        task: `segmentation`, `pose` or `vos` (video object segmentation).
        architecture: registry name.
        classes: of segmentation: names by class id.
        palette: of segmentation: RGB by class id, 0 to 255.
        ignore_index: of segmentation: label value that is not scored.
        joints: of pose: which joint set its heatmaps follow.
        input_size: (height, width) that the network is fed; of vos, its longer side is the cap.
        mean, std: of RGB in 0 to 1.
        licence: of the weights' terms.
        data: what it was trained on, and the data's licence.
        metrics: figures by name, each with the command that made it.
        training: how it was trained and how to do it again.
        precisions: that it is calibrated for, the default first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    task: Task
    architecture: str
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    ignore_index: int = 255
    joints: Literal["coco17", "mpii16", "jhmdb15", "aic14"] | None = None
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    data: str
    metrics: dict[str, float | str]
    training: str
    precisions: tuple[str, ...]

    @model_validator(mode="after")
    def _complete(self) -> ModelCard:
        if self.task == "segmentation" and not self.classes:
            raise ValueError("a segmentation model needs classes")
        if (self.task == "pose") != (self.joints is not None):
            raise ValueError("joints are for pose models, and those need them")
        return self

    @property
    def joint_set(self) -> JointSet | None:
        """The joints of a pose model; None of others."""
        return None if self.joints is None else JOINT_SETS[self.joints]

    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        """RGB by class id, by joint, or by object id."""
        if self.task == "vos":
            return DAVIS_COLOURS
        joints = self.joint_set
        return self.palette if joints is None else joints.colours

    def offers(self, precision: str, error: Exception) -> str:
        """What to say of a precision that the model has not got, and why it has not."""
        return f"{error}; {nearest(precision, self.precisions)}{self.name} has: " + ", ".join(
            self.precisions
        )

    def segmentation(self) -> SegmentationTask:
        """Pre- and post-processing of a segmentation model.

        Raises:
            OptionError: the card's values do not fit.
        """
        return SegmentationTask(self.classes, self.palette, self.input_size, self.mean, self.std)

    def pose(self) -> PoseTask:
        """Pre- and post-processing of a pose model.

        Raises:
            OptionError: the card's values do not fit.
        """
        joints = self.joint_set
        assert joints is not None
        return PoseTask(joints, self.input_size, self.mean, self.std)
