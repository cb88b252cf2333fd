"""A model on a clip, run in the ways that the paper compares, and scored frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from resq_core.errors import OptionError
from resq_core.evaluation import ClipScore, Step, evaluate_clip
from resq_core.experiments.steps import (
    counted,
    float_step,
    frame_precision,
    hold_precision,
    stream_step,
)
from resq_core.model import QuantizedModel
from resq_core.precision import Precision
from resq_core.tasks import SegmentationTask
from resq_core.tasks.pictures import Picture

__all__ = ["Run", "Trial", "float_classes"]

Sample = tuple[Picture, Picture]


@dataclass(frozen=True, slots=True)
class Run:
    """One way of running a clip.

    Attributes:
        method: `float`, `frame quantization`, `hold`, `ResQ` or `Dynamic-ResQ`.
        precision: in the paper's notation; `float32` of float.
        period: T; 1 where every frame is a keyframe.
        open_step: opens it afresh.
    """

    method: str
    precision: str
    period: int
    open_step: Callable[[], Step]


class Trial:
    """A model and a clip.

    Args:
        model: calibrated.
        task: pre- and post-processing.
        samples: pictures uint8 [H, W, 3] RGB in order, each with class ids uint8 [H, W].
        ignore_index: the label value that is not scored.
    """

    def __init__(
        self,
        model: QuantizedModel,
        task: SegmentationTask,
        samples: Sequence[Sample],
        ignore_index: int,
    ) -> None:
        self.model, self.task, self.samples = model, task, samples
        self._ignore = ignore_index
        self._at: dict[Precision, QuantizedModel] = {}  # each holds quantized weights once run

    def __len__(self) -> int:
        return len(self.samples)

    def at(self, precision: Precision) -> QuantizedModel:
        """The model at a precision, made once. CalibrationError where it has no scales for it."""
        if precision not in self._at:
            self._at[precision] = self.model.with_precision(precision)
        return self._at[precision]

    def float(self) -> Run:
        """The network in float32."""
        return Run("float", "float32", 1, lambda: float_step(self.model))

    def frame(self, precision: Precision) -> Run:
        """Every frame by itself, at the residual frames' bits where there are such."""
        if not precision.is_frame:
            precision = frame_precision(precision)
        return self._stream("frame quantization", precision, 1)

    def hold(self, precision: Precision, period: int) -> Run:
        """Keyframes, whose output repeats."""
        return self._stream("hold", hold_precision(precision), period)

    def resq(self, precision: Precision, period: int, **options: Any) -> Run:
        """Residual quantization, with options as `QuantizedModel.stream` takes them."""
        method = "Dynamic-ResQ" if precision.is_dynamic else "ResQ"
        return self._stream(method, precision, period, **options)

    def _stream(self, method: str, precision: Precision, period: int, **options: Any) -> Run:
        model = self.at(precision)
        open_step = partial(stream_step, model, period, **options)
        return Run(method, str(precision), period, open_step)

    def score(
        self,
        run: Run,
        phases: Sequence[int] = (0,),
        tell: Callable[[], object] = lambda: None,
    ) -> ClipScore:
        """Run the clip, once per phase (see `evaluate_clip`); `tell` is called after every frame.

        Raises:
            InputError: there is no frame, or no pixel that can be scored.
            OptionError: phases or an option of the run are out of range.
        """
        step = counted(run.open_step, tell)
        return evaluate_clip(step, self.samples, self.task, self._ignore, phases)

    def but(self, model: QuantizedModel, task: SegmentationTask) -> Trial:
        """Another model on the same clip."""
        return Trial(model, task, self.samples, self._ignore)

    def without_keyframes(self, period: int) -> Trial:
        """The same clip, of which only what lies between keyframes at 0, T, 2T, ... is scored.

        Raises:
            OptionError: the period leaves no such frame.
        """
        if period < 2 or len(self) < 2:
            raise OptionError(
                f"period is {period} and the clip has {len(self)} frames; expected both at least "
                "2, so that there are residual frames to score"
            )
        samples = [
            (picture, label if i % period else np.full_like(label, self._ignore))
            for i, (picture, label) in enumerate(self.samples)
        ]
        return Trial(self.model, self.task, samples, self._ignore)


def float_classes(model: QuantizedModel, task: SegmentationTask, picture: Picture) -> Picture:
    """Class ids uint8 [H, W] of the float network: what counts as right where labels are missing.

    Raises:
        InputError: the picture is unusable.
    """
    height, width = picture.shape[:2]
    return task.postprocess(model.float(task.preprocess(picture)), (height, width))
