"""Ranges of quantizers: Eq. 7 (min-max, weights) and Eq. 8 (line search, activations)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from resq_core.linear_op import LinearOp
from resq_core.quantizer import fake_quantize, scale_from_range

__all__ = ["SEARCH_POINTS", "search_scale", "weight_scale"]

SEARCH_POINTS = 20
"""r of Eq. 8, the paper's 20 candidate points."""


def weight_scale(op: LinearOp, bits: int, per_channel: bool) -> Tensor:
    """Eq. 7 then Eq. 6: the min-max scale of a layer's weight.

    Returns:
        float32: a scalar tensor, or [O] if `per_channel`.
    """
    magnitude = op.weight.abs()
    reach = op.per_output_channel("amax", magnitude) if per_channel else magnitude.amax()
    return scale_from_range(reach, -reach, bits)


def search_scale(
    op: LinearOp,
    samples: Sequence[Tensor],
    extremes: tuple[float, float],
    bits: int,
    quantized_weight: Tensor,
    points: int = SEARCH_POINTS,
    signed: bool = True,
) -> float | None:
    """Eq. 8: the scale whose quantized layer output is nearest the float output.

    The scale depends on a pair (r_max, r_min) only through max(r_max, −r_min), so the search
    runs over |r| for r in linspace(min X, max X, points); candidates of zero are skipped.

    Args:
        op: the layer.
        samples: inputs X_i of the layer, each of a shape that the layer takes.
        extremes: (min, max) over all calibration inputs, of which `samples` may be a part.
        bits: activation bits, 1 to 8.
        quantized_weight: ŵ in real units, of the weight's shape.
        points: r of the paper.
        signed: whether the codes reach to either side of 0.

    Returns:
        The scale s > 0, or None where every input is zero.
    """
    candidates = sorted({abs(r) for r in torch.linspace(*extremes, points).tolist()} - {0.0})
    if not candidates:
        return None
    scales = [
        scale_from_range(torch.tensor(r), torch.tensor(-r), bits, signed).item() for r in candidates
    ]
    errors = [0.0] * len(scales)
    for x in samples:
        wanted = op.apply(x, op.weight)
        for i, scale in enumerate(scales):
            got = op.apply(fake_quantize(x, scale, bits, signed), quantized_weight)
            errors[i] += float((wanted - got).double().square().sum())
    return scales[min(range(len(scales)), key=errors.__getitem__)]
