"""One layer, one frame: Eq. 4–5 in integer codes, with the three references.

`keyframe` (the paper's pairwise residual): δ = x^t − x^k, z^t = q(δ)*ŵ + z^k.
`previous` (the recurrent ablation of Fig. 12): δ = x^t − x^{t−1}, z^t = q(δ)*ŵ + z^{t−1}.
`tracking` (ours): δ = x^t − x̂, where x̂ is what was transmitted so far; then x̂ += q(δ) and
z^t = x̂*ŵ. What quantization drops stays in the next δ.

What was transmitted is kept as int8 codes, in one or more *planes*: a plane has one scale and one
set of weights, and z^t = Σ_planes s·(codes*ŵ) + b. A convolution is linear, so this is the sum
of all updates, without ever adding one up: nothing can drift, and an output is a function of the
codes in its window alone. On the aligned grid a layer whose residual weights are its keyframe
weights has one plane; otherwise the keyframe has one of its own and every residual scale another.
Codes saturate at int8, the range of an 8-bit keyframe.

Convolutions run on integer codes and are exact: in float32 where the layer's weights bound every
partial sum below 2^24, in float64 elsewhere. The bias belongs to the keyframe's plane only.
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
    "Plane",
    "PoolEntry",
    "QuantizedWeight",
    "Reference",
    "Step",
    "anchor_step",
    "refresh_step",
    "residual_step",
]

_EXACT_FLOAT32 = 2**24
_CODE_LOW, _CODE_HIGH = code_range(8)


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
class Plane:
    """Codes that share a scale and weights.

    Attributes:
        weight: what the codes are convolved with.
        scale: one step of a code in the units of the layer's input.
        multiplier: float32 scalar or [O], scale × weight scale: an accumulator's unit.
    """

    weight: QuantizedWeight
    scale: float
    multiplier: Tensor

    @classmethod
    def of(cls, weight: QuantizedWeight, scale: float) -> Plane:
        """A plane of codes in steps of `scale`."""
        return cls(weight, scale, (weight.scale.double() * scale).float())


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """One residual quantizer Θ_a^i.

    Attributes:
        bits: 0 to 8.
        scale: of the quantizer; 0 bits do not use it.
        plane: where its codes go.
        step: how many steps of the plane one of its codes is.
    """

    bits: int
    scale: float
    plane: int
    step: int


@dataclass(frozen=True, eq=False, slots=True)
class LayerQuantizers:
    """All that a layer needs to run quantized; immutable and shared by every stream.

    Attributes:
        op: the layer.
        frame_bits, frame_scale, frame_signed: Φ_a.
        frame_step: how many steps of plane 0 one keyframe code is.
        planes: plane 0 holds the keyframe.
        pool: Θ_a^1…Θ_a^n, bits ascending; empty for frame quantization.
        residual_weight: Θ_w, or None for frame quantization.
    """

    op: LinearOp
    frame_bits: int
    frame_scale: float
    frame_step: int
    planes: tuple[Plane, ...]
    pool: tuple[PoolEntry, ...]
    residual_weight: QuantizedWeight | None
    frame_signed: bool = True

    @property
    def frame_range(self) -> tuple[int, int]:
        """Lowest and highest code of a keyframe."""
        return code_range(self.frame_bits, self.frame_signed)

    def frame_codes(self, x: Tensor) -> Tensor:
        """q(x; Φ_a) as whole numbers, float32."""
        return quantize_codes(x, self.frame_scale, self.frame_bits, self.frame_signed)

    @property
    def refreshable(self) -> bool:
        """A keyframe can be made of what differs from the codes that are there."""
        return len(self.planes) == 1 and self.frame_step == 1 and self.residual_weight is not None

    @classmethod
    def of(
        cls,
        op: LinearOp,
        frame: tuple[int, float],
        frame_weight: QuantizedWeight,
        pool: tuple[tuple[int, float], ...] = (),
        residual_weight: QuantizedWeight | None = None,
        aligned: bool = True,
        signed: bool = True,
    ) -> LayerQuantizers:
        """Lay out the planes.

        Args:
            op: the layer.
            frame: (bits, scale) of Φ_a.
            frame_weight: Φ_w.
            pool: (bits, scale) of Θ_a^1…Θ_a^n, bits ascending.
            residual_weight: Θ_w; the same object as `frame_weight` where the bits are the same.
            aligned: move the residual scales to whole multiples of one step.
            signed: whether codes of Φ_a reach to either side of 0; 8 bits have to.
        """
        bits, scale = frame
        entries: list[PoolEntry] = []
        if not aligned:
            planes = [Plane.of(frame_weight, scale)]
            for b, s in pool:
                assert residual_weight is not None
                entries.append(PoolEntry(b, s, len(planes) if b else 0, 1))
                if b:
                    planes.append(Plane.of(residual_weight, s))
            return cls(op, bits, scale, 1, tuple(planes), tuple(entries), residual_weight, signed)
        step, grid, shared = 1, scale, residual_weight is frame_weight
        finest = pool[-1][1] if pool and pool[-1][0] else scale
        if shared:
            step = _whole(scale / finest, bits if signed else bits + 1)
            grid = scale / step
        else:
            grid = finest
        planes = [Plane.of(frame_weight, scale / step)]
        if residual_weight is not None and not shared:
            planes.append(Plane.of(residual_weight, grid))
        for b, s in pool:
            # among several, bits are reach and not resolution: what fits is transmitted whole
            multiple = _whole(s / grid, b) if b and len(pool) == 1 else 1
            entries.append(PoolEntry(b, grid * multiple, len(planes) - 1, multiple))
        return cls(op, bits, scale, step, tuple(planes), tuple(entries), residual_weight, signed)


def _whole(ratio: float, bits: int) -> int:
    """The nearest whole multiple that keeps multiple × code within int8 for a code of `bits`."""
    return int(min(max(round(ratio), 1), 2 ** (8 - bits)))


@dataclass(slots=True)
class Step:
    """What one layer did on one frame.

    Attributes:
        z: the output, float32.
        bits: float32 map of activation bits over input pixels (one channel), or one number where
            every pixel got the same.
        active: bool map of input pixels whose codes changed (one channel), or None for a keyframe.
        clipped: residual elements that the highest quantizer had to clamp.
        elements: input elements.
    """

    z: Tensor
    bits: Tensor | int
    active: Tensor | None
    clipped: int
    elements: int


def _convolve(op: LinearOp, codes: Tensor, plane: Plane) -> Tensor:
    """(s·codes) * ŵ without bias, float32, from exact integer sums."""
    if max(-_CODE_LOW, _CODE_HIGH) * plane.weight.reach < _EXACT_FLOAT32:
        sums = op.apply(codes.float(), plane.weight.codes)
    else:
        sums = op.apply(codes.double(), plane.weight.codes.double()).float()
    return sums * op.channels_to_output(plane.multiplier)


def _with_bias(op: LinearOp, z: Tensor) -> Tensor:
    return z if op.bias is None else z + op.channels_to_output(op.bias)


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
    codes = layer.frame_codes(x) * layer.frame_step
    z = _with_bias(op, _convolve(op, codes, layer.planes[0]))
    step = Step(z, layer.frame_bits, None, 0, x.numel())
    if reference is None:
        return step, None
    norm = torch.linalg.vector_norm(x, dim=op.channel_dim).mean().item()
    kept = [codes.to(torch.int8)]
    kept += [torch.zeros_like(kept[0]) for _ in layer.planes[1:]]
    state = LayerState(
        codes=kept,
        x=None if reference is Reference.TRACKING else x,
        z=z if len(layer.planes) > 1 else None,
        keyframe_norm=norm,
    )
    return step, state


def refresh_step(layer: LayerQuantizers, x: Tensor, state: LayerState) -> Step:
    """Run a layer on a keyframe as an 8-bit residual against what `tracking` has transmitted.

    The codes become q(x^k; Φ_a), as `anchor_step` would make them, and so does the output; only
    pixels whose codes differ have to be transmitted and computed. ‖x^k‖ stays that of the
    last dense keyframe.

    Args:
        layer: the quantizers; `refreshable`.
        x: float32 input of the shape that the state was made for.
        state: the layer's state, of `tracking`; it is changed.
    """
    codes = layer.frame_codes(x).to(torch.int8)
    active = (codes != state.codes[0]).any(dim=layer.op.channel_dim, keepdim=True)
    state.codes = [codes]
    bits = active.float() * layer.frame_bits
    return Step(_output(layer, state.codes, None), bits, active, 0, x.numel())


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
    delta = x - (_transmitted(layer, state) if state.x is None else state.x)
    codes = [c.clone() for c in state.codes]
    if len(layer.pool) > 1:
        bits, clipped = _transmit_chosen(layer, delta, codes, policy, state.keyframe_norm)
    else:
        bits, clipped = _transmit_all(layer, delta, codes)
    active = torch.zeros_like(delta, dtype=torch.bool)
    for old, new in zip(state.codes, codes, strict=True):
        active |= old != new
    active = active.any(dim=layer.op.channel_dim, keepdim=True)
    if reference is not Reference.KEYFRAME:
        state.codes = codes
    if reference is Reference.PREVIOUS:
        state.x = x
    return Step(_output(layer, codes, state.z), bits, active, clipped, x.numel())


def _transmitted(layer: LayerQuantizers, state: LayerState) -> Tensor:
    """x̂ = Σ_planes s·codes, float32."""
    parts = [c.float() * p.scale for c, p in zip(state.codes, layer.planes, strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _output(layer: LayerQuantizers, codes: list[Tensor], z: Tensor | None) -> Tensor:
    if z is None:
        return _with_bias(layer.op, _convolve(layer.op, codes[0], layer.planes[0]))
    for c, plane in zip(codes[1:], layer.planes[1:], strict=True):
        if bool(c.any()):
            z = z + _convolve(layer.op, c, plane)
    return z


def _added(codes: Tensor, new: Tensor, step: int) -> Tensor:
    return (codes.float() + new * step).clamp_(_CODE_LOW, _CODE_HIGH).to(torch.int8)


def _transmit_all(
    layer: LayerQuantizers, delta: Tensor, codes: list[Tensor]
) -> tuple[Tensor | int, int]:
    """Give every pixel the pool's only quantizer; add its codes to their plane."""
    entry = layer.pool[0]
    if entry.bits == 0:
        return 0, 0
    new = quantize_codes(delta, entry.scale, entry.bits)
    codes[entry.plane] = _added(codes[entry.plane], new, entry.step)
    return entry.bits, int(_beyond(delta, entry).sum())


def _transmit_chosen(
    layer: LayerQuantizers,
    delta: Tensor,
    codes: list[Tensor],
    policy: Policy,
    keyframe_norm: float,
) -> tuple[Tensor | int, int]:
    """Give every pixel its quantizer; add its codes to their plane.

    Where |δ_c| ≤ s/2 for the finest s, every quantizer gives zeros, every gap is 0, and Eq. 11
    stops at the first one. Only the other pixels are looked at.
    """
    pool, channels = layer.pool, layer.op.channel_dim
    assert layer.residual_weight is not None
    finest = min(entry.scale for entry in pool if entry.bits)
    loud = delta.abs().amax(channels) > finest * 0.5
    values = delta.movedim(channels, -1)[loud]  # [pixels, C]
    if not values.shape[0]:
        return pool[0].bits, 0
    gain = policy.gain(layer.residual_weight.norm, keyframe_norm)
    candidates = [quantize_codes(values, entry.scale, entry.bits) for entry in pool]
    errors = [
        torch.linalg.vector_norm(values - new * entry.scale, dim=-1) * gain
        for new, entry in zip(candidates, pool, strict=True)
    ]
    index = choose(errors, policy.threshold_for(layer.op.name), policy.looks_ahead)
    clipped = int(_beyond(values[index == len(pool) - 1], pool[-1]).sum())
    bit_map = torch.full(loud.shape, float(pool[0].bits), device=delta.device)
    table = torch.tensor([float(entry.bits) for entry in pool], device=delta.device)
    bit_map[loud] = table[index]
    for i, (new, entry) in enumerate(zip(candidates, pool, strict=True)):
        if entry.bits:
            plane = codes[entry.plane].movedim(channels, -1)
            plane[loud] = _added(plane[loud], new * (index == i)[:, None], entry.step)
    return bit_map.unsqueeze(channels), clipped


def _beyond(delta: Tensor, entry: PoolEntry) -> Tensor:
    """Where a quantizer has to clamp."""
    low, high = code_range(entry.bits)
    return (delta > (high + 0.5) * entry.scale) | (delta < (low - 0.5) * entry.scale)
