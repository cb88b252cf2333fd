"""Are residuals easier to quantize than frames? Variances and errors, layer by layer (Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resq_core.errors import InputError, OptionError
from resq_core.model import QuantizedModel
from resq_core.precision import MAX_BITS
from resq_core.quantizer import fake_quantize, scale_from_range

__all__ = ["LayerStatistics", "residual_statistics"]


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """What one layer is given, over all pairs of frames.

    Attributes:
        layer: its name.
        frame_variance, residual_variance: of x^t and of x^t − x^k, means over the pairs.
        frame_error, residual_error: mean squared errors of quantizing them, each with the min-max
            scale of its own tensor (Eq. 6).
    """

    layer: str
    frame_variance: float
    residual_variance: float
    frame_error: float
    residual_error: float


def residual_statistics(
    model: QuantizedModel, clip: Sequence[Tensor], distance: int, bits: int
) -> list[LayerStatistics]:
    """Compare the inputs of every layer with their residuals, in the float network.

    Args:
        model: whose network.
        clip: preprocessed frames in order, float32 [1, C, H, W].
        distance: t − k, frames from keyframe to frame; every frame that has one so far before it
            is looked at.
        bits: of both quantizers, 1 to 8.

    Raises:
        OptionError: distance or bits are out of range.
        InputError: the clip is too short, or a frame is unusable.
    """
    if distance < 1 or not 1 <= bits <= MAX_BITS:
        raise OptionError(
            f"distance is {distance} and bits is {bits}; expected at least 1, and 1 to {MAX_BITS}"
        )
    if len(clip) <= distance:
        raise InputError(f"the clip has {len(clip)} frames; expected more than {distance}")
    past: list[dict[str, Tensor]] = []
    sums: dict[str, list[float]] = {}
    for x in clip:
        now = model.layer_inputs(x)
        if len(past) == distance:
            for name, value in now.items():
                delta = value - past[0][name]
                found = (
                    value.var(correction=0).item(),
                    delta.var(correction=0).item(),
                    _error(value, bits),
                    _error(delta, bits),
                )
                before = sums.get(name, [0.0] * 4)
                sums[name] = [a + b for a, b in zip(before, found, strict=True)]
            past.pop(0)
        past.append(now)
    pairs = len(clip) - distance
    return [LayerStatistics(name, *(value / pairs for value in s)) for name, s in sums.items()]


def _error(x: Tensor, bits: int) -> float:
    low, high = torch.aminmax(x)
    scale = scale_from_range(high, low, bits)
    return (x - fake_quantize(x, scale, bits)).square().mean().item()
