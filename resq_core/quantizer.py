"""Uniform symmetric quantization: Eq. 1 and Eq. 6 of the paper.

Rounding is to nearest, ties to even: the bound ±s/2 of Eq. 3 needs it although Eq. 1 prints a
floor bracket. Zero bits mean "all zeros" everywhere and never divide by anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["code_range", "fake_quantize", "quantize_codes", "scale_from_range"]


def code_range(bits: int, signed: bool = True) -> tuple[int, int]:
    """Lowest and highest integer code of a `bits`-bit quantizer; (0, 0) for zero bits."""
    if bits == 0:
        return 0, 0
    if not signed:
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def scale_from_range(r_max: Tensor, r_min: Tensor, bits: int, signed: bool = True) -> Tensor:
    """Eq. 6: s = 2·max(r_max, −r_min) / (2^b − 1), and half of it where nothing is negative.

    A range of zero (a constant-zero tensor) and zero bits give s = 1: a valid quantizer whose
    codes are all zero on that tensor.

    Args:
        r_max, r_min: float tensors of one shape, in the units of the quantized tensor.
        bits: 0 to 8.
        signed: whether the codes reach to either side of 0.

    Returns:
        Scale of the same shape and dtype, always > 0 and finite.
    """
    reach = torch.maximum(r_max, -r_min)
    scale = (1 + signed) * reach / max(2**bits - 1, 1)
    return torch.where((reach > 0) & (scale > 0) & (bits > 0), scale, torch.ones_like(scale))


def quantize_codes(x: Tensor, scale: Tensor | float, bits: int, signed: bool = True) -> Tensor:
    """Integer codes of Eq. 1, clamp(round(x·(1/s)), −2^{b−1}, 2^{b−1}−1), in the dtype of `x`;
    from 0 to 2^b − 1 where they are not signed.

    The reciprocal is taken once: a product is many times cheaper than a division, and every
    executor has to round alike.
    """
    if bits == 0:
        return torch.zeros_like(x)
    low, high = code_range(bits, signed)
    return torch.mul(x, 1.0 / scale).round_().clamp_(low, high)


class _RoundClampSTE(torch.autograd.Function):
    """round and clamp whose gradient passes straight through where nothing was clamped."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, low: int, high: int) -> Tensor:
        rounded = x.round()
        ctx.save_for_backward((rounded >= low) & (rounded <= high))
        return rounded.clamp(low, high)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *grads: Tensor
    ) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0] * inside, None, None


def fake_quantize(x: Tensor, scale: Tensor | float, bits: int, signed: bool = True) -> Tensor:
    """q(x; Θ) of Eq. 1: quantize and scale back, with the straight-through gradient.

    Args:
        x: float tensor of any shape.
        scale: s > 0, broadcastable to `x`; gradients reach it too.
        bits: 0 to 8.
        signed: see `code_range`.

    Returns:
        Tensor of the shape and dtype of `x`, within s/2 of it wherever it is not clamped.
    """
    if bits == 0:
        return torch.zeros_like(x)
    low, high = code_range(bits, signed)
    codes: Tensor = _RoundClampSTE.apply(x * (1.0 / scale), low, high)  # type: ignore[no-untyped-call]
    return codes * scale
