"""One layer, one frame: Eq. 4–5 in integer codes, with the three references.

`keyframe` (the paper's pairwise residual): δ = x^t − x^k, z^t = q(δ)*ŵ + z^k.
`previous` (the recurrent ablation of Fig. 12): δ = x^t − x^{t−1}, z^t = q(δ)*ŵ + z^{t−1}.
`tracking` (ours): δ = x^t − x_ref, where x_ref is what was transmitted so far; then
x_ref += q(δ) and z_ref += q(δ)*ŵ. What quantization drops stays in the next δ.

Convolutions run on integer codes and are exact: in float32 where the layer's weights bound every
partial sum below 2^24, in float64 elsewhere. The bias belongs to the anchor's output only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from resq_core.linear_op import LinearOp
from resq_core.policy import Policy, choose
from resq_core.quantizer import code_range, quantize_codes
from resq_core.ranges import weight_scale
from resq_core.state import LayerState

__all__ = [
    "LayerQuantizers",
    "QuantizedWeight",
    "Reference",
    "Step",
    "anchor_step",
    "residual_step",
]

_EXACT_FLOAT32 = 2**24


class Reference(StrEnum):
    """What the residual of a frame is taken against."""

    KEYFRAME = "keyframe"
    PREVIOUS = "previous"
    TRACKING = "tracking"


@dataclass(frozen=True, eq=False, slots=True)
class QuantizedWeight:
    """Weight codes and their scale.

    Attributes:
        bits: 0 to 8.
        codes: float32 tensor of whole numbers, of the weight's shape.
        scale: float32 scalar, or [O] per output channel.
        norm: ‖ŵ‖_F in real units.
        reach: largest sum of |codes| over one output channel; bounds every accumulator.
    """

    bits: int
    codes: Tensor
    scale: Tensor
    norm: float
    reach: float

    @classmethod
    def of(cls, op: LinearOp, bits: int, per_channel: bool) -> QuantizedWeight:
        """Quantize a layer's weight with the min-max range (Eq. 7)."""
        scale = weight_scale(op, bits, per_channel)
        over_weight = op.channels_to_weight(scale)
        codes = quantize_codes(op.weight, over_weight, bits)
        reach = op.per_output_channel("sum", codes.abs()).amax().item()
        return cls(bits, codes, scale, (codes * over_weight).norm().item(), reach)


@dataclass(frozen=True, eq=False, slots=True)
class LayerQuantizers:
    """All that a layer needs to run quantized; immutable and shared by every stream.

    Attributes:
        op: the layer.
        frame_bits, frame_scale: Φ_a.
        frame_weight: Φ_w.
        pool: (bits, scale) of Θ_a^1…Θ_a^n, bits ascending; the scale of 0 bits is unused.
        residual_weight: Θ_w, or None for frame quantization.
        aligned: every pool scale is a whole multiple of the last one, so that one integer
            accumulation serves a window that mixes them.
    """

    op: LinearOp
    frame_bits: int
    frame_scale: float
    frame_weight: QuantizedWeight
    pool: tuple[tuple[int, float], ...]
    residual_weight: QuantizedWeight | None
    aligned: bool


@dataclass(slots=True)
class Step:
    """What one layer did on one frame.

    Attributes:
        z: the output, float32.
        bits: float32 map of activation bits over input pixels (one channel), or one number where
            every pixel got the same.
        clipped: residual elements that the highest quantizer had to clamp.
        elements: input elements.
    """

    z: Tensor
    bits: Tensor | int
    clipped: int
    elements: int


def _convolve(op: LinearOp, codes: Tensor, weight: QuantizedWeight, scale: float) -> Tensor:
    """(s·codes) * ŵ without bias, float64, from exact integer sums."""
    largest = codes.abs().amax().item() if codes.numel() else 0.0
    if largest * weight.reach < _EXACT_FLOAT32:
        sums = op.apply(codes, weight.codes)
    else:
        sums = op.apply(codes.double(), weight.codes.double())
    return sums.double() * op.channels_to_output(weight.scale.double() * scale)


def anchor_step(
    layer: LayerQuantizers, x: Tensor, reference: Reference | None
) -> tuple[Step, LayerState | None]:
    """Run a layer on a keyframe: z^k = q(x^k; Φ_a) * ŵ + b.

    Args:
        layer: the quantizers.
        x: float32 input.
        reference: how later frames will refer to this one; None if none will.

    Returns:
        The step and the layer's state for later frames (None without a reference).
    """
    op = layer.op
    codes = quantize_codes(x, layer.frame_scale, layer.frame_bits)
    z = _convolve(op, codes, layer.frame_weight, layer.frame_scale).float()
    if op.bias is not None:
        z = z + op.channels_to_output(op.bias)
    step = Step(z, layer.frame_bits, 0, x.numel())
    if reference is None:
        return step, None
    norm = torch.linalg.vector_norm(x, dim=op.channel_dim).mean().item()
    if reference is Reference.KEYFRAME:
        return step, LayerState(x, z, norm)
    if reference is Reference.PREVIOUS:
        return step, LayerState(x, z.double(), norm)
    return step, LayerState(codes.double() * layer.frame_scale, z.double(), norm)


def residual_step(
    layer: LayerQuantizers, x: Tensor, state: LayerState, reference: Reference, policy: Policy
) -> Step:
    """Run a layer on a residual frame and bring its state forward.

    Args:
        layer: the quantizers; `residual_weight` is present.
        x: float32 input of the shape that the state was made for.
        state: the layer's state; `previous` and `tracking` change it.
        reference: which of the three.
        policy: used where the pool holds more than one quantizer.
    """
    weight = layer.residual_weight
    assert weight is not None
    delta = x - state.x if state.x.dtype == x.dtype else (x.double() - state.x).float()
    terms, bits, clipped = _quantize_residual(layer, delta, policy, state.keyframe_norm)
    update: Tensor | None = None
    for scale, codes in terms:
        part = _convolve(layer.op, codes, weight, scale)
        update = part if update is None else update + part
    if reference is Reference.KEYFRAME:
        z = state.z if update is None else state.z + update.float()
        return Step(z, bits, clipped, x.numel())
    if update is not None:
        state.z += update
    if reference is Reference.PREVIOUS:
        state.x = x
    else:
        for scale, codes in terms:
            state.x.add_(codes.double(), alpha=scale)
    return Step(state.z.float(), bits, clipped, x.numel())


def _quantize_residual(
    layer: LayerQuantizers, delta: Tensor, policy: Policy, keyframe_norm: float
) -> tuple[list[tuple[float, Tensor]], Tensor | int, int]:
    """q(δ) as (scale, codes) terms, the bits of every pixel, and the count of clamped elements."""
    if len(layer.pool) > 1:
        return _choose_bits(layer, delta, policy, keyframe_norm)
    bits, scale = layer.pool[0]
    if bits == 0:
        return [], 0, 0
    clipped = int(_beyond(delta, bits, scale).sum())
    return [(scale, quantize_codes(delta, scale, bits))], bits, clipped


def _choose_bits(
    layer: LayerQuantizers, delta: Tensor, policy: Policy, keyframe_norm: float
) -> tuple[list[tuple[float, Tensor]], Tensor | int, int]:
    """Give every pixel its quantizer and quantize it.

    Where |δ_c| ≤ s/2 for the finest s, every quantizer gives zeros, every gap is 0, and Eq. 11
    stops at the first one. Only the other pixels are looked at.
    """
    pool, channels = layer.pool, layer.op.channel_dim
    assert layer.residual_weight is not None
    finest = min(scale for bits, scale in pool if bits)
    loud = delta.abs().amax(channels) > finest / 2
    values = delta.movedim(channels, -1)[loud]  # [pixels, C]
    if not values.shape[0]:
        return [], pool[0][0], 0
    gain = policy.gain(layer.residual_weight.norm, keyframe_norm)
    candidates = [quantize_codes(values, scale, bits) for bits, scale in pool]
    errors = [
        torch.linalg.vector_norm(values - codes * scale, dim=-1) * gain
        for codes, (_, scale) in zip(candidates, pool, strict=True)
    ]
    index = choose(errors, policy.threshold_for(layer.op.name))
    top = index == len(pool) - 1
    clipped = int(_beyond(values[top], *pool[-1]).sum())
    bit_map = torch.full(loud.shape, float(pool[0][0]), device=delta.device)
    table = torch.tensor([float(bits) for bits, _ in pool], device=delta.device)
    bit_map[loud] = table[index]
    terms: list[tuple[float, Tensor]] = []
    for scale, codes in _terms(layer, candidates, index):
        spread = torch.zeros_like(delta)
        spread.movedim(channels, -1)[loud] = codes
        terms.append((scale, spread))
    return terms, bit_map.unsqueeze(channels), clipped


def _beyond(delta: Tensor, bits: int, scale: float) -> Tensor:
    """Where a quantizer has to clamp."""
    low, high = code_range(bits)
    return (delta > (high + 0.5) * scale) | (delta < (low - 0.5) * scale)


def _terms(
    layer: LayerQuantizers, candidates: list[Tensor], index: Tensor
) -> list[tuple[float, Tensor]]:
    """Selected codes [pixels, C]: one term on the common grid, or one per quantizer in use."""
    terms: list[tuple[float, Tensor]] = []
    for i, (codes, (bits, scale)) in enumerate(zip(candidates, layer.pool, strict=True)):
        chosen = index == i
        if bits and bool(chosen.any()):
            terms.append((scale, codes * chosen[:, None]))
    if not layer.aligned or len(terms) < 2:
        return terms
    grid = layer.pool[-1][1]
    total = torch.zeros_like(terms[0][1])
    for scale, codes in terms:
        total.add_(codes, alpha=round(scale / grid))
    return [(grid, total)]
