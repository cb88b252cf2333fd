"""Frame quantization that alternates between two precisions, as keyframes and residuals do."""

from __future__ import annotations

from torch import Tensor

from resq_core.errors import OptionError
from resq_core.evaluation import Step, StepOutcome
from resq_core.experiments.steps import stream_step
from resq_core.model import QuantizedModel

__all__ = ["mixed_step"]


def mixed_step(keyframe: QuantizedModel, between: QuantizedModel, period: int) -> Step:
    """Frame quantization at two precisions: every T-th frame at one, the others at the other.

    What ResQ spends its bits on, without residuals: with `between` at the residual bits it costs
    what static ResQ costs.

    Args:
        keyframe: at a precision for frames, for example W8A8.
        between: at another, for example W4A4.
        period: T ≥ 1.

    Raises:
        OptionError: a period below 1, or a precision with residual frames.
        CalibrationError: a model is not calibrated.
    """
    for model in (keyframe, between):
        if not model.precision.is_frame:
            raise OptionError(f"precision is {model.precision}; expected one of single frames")
    if period < 1:
        raise OptionError(f"period T is {period}; expected at least 1")
    key, other = (stream_step(model, 1) for model in (keyframe, between))
    index = -1

    def step(x: Tensor) -> StepOutcome:
        nonlocal index
        index += 1
        is_anchor = index % period == 0
        return (key if is_anchor else other)(x)._replace(is_anchor=is_anchor)

    return step
