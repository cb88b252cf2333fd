"""Our own rows: float, streams at any precision, and frame quantization that alternates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from resq_core.errors import OptionError
from resq_core.evaluation import Step, StepOutcome
from resq_core.model import QuantizedModel

__all__ = ["FLOAT_BITS", "float_step", "mixed_step", "stream_step"]

FLOAT_BITS = 32
"""Of a float's weights and activations, as BOPs count them."""


def float_step(model: QuantizedModel) -> Step:
    """Every frame in float32, counted as 32×32 bits."""

    def step(x: Tensor) -> StepOutcome:
        macs = sum(model.macs(x).values())
        bops = macs * FLOAT_BITS * FLOAT_BITS
        return StepOutcome(model.float(x), bops, 0, FLOAT_BITS, is_anchor=True)

    return step


def stream_step(model: QuantizedModel, period: int, options: Mapping[str, Any]) -> Step:
    """A stream at the model's precision: frame quantization, `hold` or ResQ.

    Args:
        model: at the precision to run.
        period: T.
        options: further ones of `QuantizedModel.stream`.

    Raises:
        OptionError, CalibrationError: as `QuantizedModel.stream` does.
    """
    stream = model.stream(period=period, **options)

    def step(x: Tensor) -> StepOutcome:
        r = stream.step(x)
        return StepOutcome(r.output, r.bops.frame, r.bops.policy, r.mean_bits, r.is_anchor)

    return step


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
    key, other = (stream_step(model, 1, {}) for model in (keyframe, between))
    index = -1

    def step(x: Tensor) -> StepOutcome:
        nonlocal index
        index += 1
        is_anchor = index % period == 0
        return (key if is_anchor else other)(x)._replace(is_anchor=is_anchor)

    return step
