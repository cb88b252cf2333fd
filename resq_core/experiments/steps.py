"""What a clip is scored with: the network in float, or a stream of it at any precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from resq_core.errors import OptionError
from resq_core.evaluation import Step, StepOutcome
from resq_core.model import QuantizedModel
from resq_core.precision import Precision

__all__ = [
    "FLOAT_BITS",
    "counted",
    "float_step",
    "frame_precision",
    "hold_precision",
    "keyframe_precision",
    "residual_precision",
    "stream_step",
]

FLOAT_BITS = 32
"""Of a float's weights and activations, as BOPs count them."""


def residual_precision(text: str | Precision) -> Precision:
    """Read a precision that has residual frames.

    Raises:
        PrecisionError: it does not parse.
        OptionError: it is frame quantization.
    """
    parsed = Precision.parse(text)
    if parsed.is_frame:
        raise OptionError(
            f"precision is {parsed}; expected one with residual frames, for example W8A8->W8A4"
        )
    return parsed


def keyframe_precision(precision: Precision) -> Precision:
    """Every frame at the bits of keyframes."""
    return Precision(precision.weight_bits, precision.activation_bits)


def frame_precision(precision: Precision) -> Precision:
    """Every frame at the (highest) bits of residual frames: what residuals are compared with."""
    assert precision.residual_weight_bits is not None
    return Precision(precision.residual_weight_bits, precision.pool[-1])


def hold_precision(precision: Precision) -> Precision:
    """The same keyframes, and nothing between them."""
    return Precision(
        precision.weight_bits, precision.activation_bits, precision.residual_weight_bits, (0,)
    )


def float_step(model: QuantizedModel) -> Step:
    """The network in float32, counted as 32×32 bits; every frame is a keyframe."""

    def step(x: Tensor) -> StepOutcome:
        macs = sum(model.macs(x).values())
        bits = float(FLOAT_BITS)
        return StepOutcome(model.float(x), macs * FLOAT_BITS**2, 0, bits, is_anchor=True)

    return step


def stream_step(model: QuantizedModel, period: int, **options: Any) -> Step:
    """A fresh stream at the model's own precision.

    Args:
        model: calibrated.
        period: T.
        options: reference, policy and threshold, as `QuantizedModel.stream` takes them.

    Raises:
        OptionError: an option is out of range.
        CalibrationError: the model is not calibrated.
    """
    stream = model.stream(period=period, **options)

    def step(x: Tensor) -> StepOutcome:
        r = stream.step(x)
        return StepOutcome(r.output, r.bops.frame, r.bops.policy, r.mean_bits, r.is_anchor)

    return step


def counted(open_step: Callable[[], Step], tell: Callable[[], object]) -> Callable[[], Step]:
    """The same steps, which call `tell` after every frame."""

    def open_counted() -> Step:
        step = open_step()

        def run(x: Tensor) -> StepOutcome:
            outcome = step(x)
            tell()
            return outcome

        return run

    return open_counted
