"""One layer of a network that is trained quantized: `residual.py` with gradients.

Values instead of codes: what a plane has transmitted is kept in the layer's units, and rounding
passes gradients straight through (Sec. 4 of the paper). Which quantizer a pixel gets is chosen as
in inference, and has no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from resq_core.encodings import Role, Slot, frame_slot
from resq_core.linear_op import LinearOp
from resq_core.policy import Policy, choose
from resq_core.precision import Precision
from resq_core.quantizer import code_range, fake_quantize
from resq_core.residual import LayerQuantizers, QuantizedWeight, Reference

__all__ = ["TrainedLayer", "Transmitted"]

_LOW, _HIGH = code_range(8)


@dataclass(slots=True)
class Transmitted:
    """What a layer keeps from frame to frame, of every picture of the batch.

    Attributes:
        planes: what was transmitted in each, in the units of the layer's input.
        x: what residuals are taken against; None takes what was transmitted.
        z: the keyframe's output, where there are several planes.
        norms: mean ‖x^k‖ of each picture, [B, 1, …].
    """

    planes: list[Tensor]
    x: Tensor | None
    z: Tensor | None
    norms: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class TrainedLayer:
    """A layer at the weights and scales of one training step.

    Attributes:
        quantizers: what inference would run: layout, bits, values.
        weights: ŵ of each plane.
        frame_scale: of Φ_a.
        pool_scales: of Θ_a^1…Θ_a^n, in the size that inference moves them to.
        mixed: products are made in bfloat16.
    """

    op: LinearOp
    quantizers: LayerQuantizers
    weights: tuple[Tensor, ...]
    frame_scale: Tensor
    pool_scales: tuple[Tensor, ...] = field(default=())
    mixed: bool = False

    @classmethod
    def of(
        cls,
        op: LinearOp,
        precision: Precision,
        scales: Mapping[Slot, Tensor],
        per_channel: bool,
        aligned: bool,
        signed: bool = True,
        mixed: bool = False,
    ) -> TrainedLayer:
        """Lay out a layer.

        Args:
            op: the layer, its weight attached to what is trained.
            precision: bits.
            scales: the learned scale of each quantizer, scalars.
            per_channel, aligned: as of the model.
            signed: as of the layer's keyframe quantizer.
            mixed: products are made in bfloat16.
        """
        p, fixed = precision, replace(op, weight=op.weight.detach())
        frame = scales[frame_slot(p)]
        first = QuantizedWeight.of(fixed, p.weight_bits, per_channel)
        if p.residual_weight_bits is None:
            alone = LayerQuantizers.of(
                fixed, (p.activation_bits, frame.item()), first, signed=signed
            )
            return cls(op, alone, (_trained(op, first),), frame, mixed=mixed)
        later = first
        if p.residual_weight_bits != p.weight_bits:
            later = QuantizedWeight.of(fixed, p.residual_weight_bits, per_channel)
        learned = [
            scales[Slot(Role.RESIDUAL, p.residual_weight_bits, bits)] if bits else frame
            for bits in p.pool
        ]
        layout = LayerQuantizers.of(
            fixed,
            (p.activation_bits, frame.item()),
            first,
            tuple((bits, s.item()) for bits, s in zip(p.pool, learned, strict=True)),
            later,
            aligned,
            signed,
        )
        if aligned and len(learned) > 1:  # they all have the step of their plane
            learned = [frame if later is first else learned[-1]] * len(learned)
        pool = tuple(
            s * (entry.scale / s.item()) for s, entry in zip(learned, layout.pool, strict=True)
        )
        weights = tuple(_trained(op, plane.weight) for plane in layout.planes)
        return cls(op, layout, weights, frame, pool, mixed)

    def anchor(self, x: Tensor, reference: Reference) -> tuple[Tensor, Transmitted]:
        """A keyframe: its output, and what later frames are residuals of."""
        q = self.quantizers
        values = _quantized(x, self.frame_scale, q.frame_scale, q.frame_bits, q.frame_signed)
        values = _on_grid(values, self.quantizers.planes[0].scale)
        z = self._product(values, self.weights[0], self.op.bias)
        channels = self.op.channel_dim
        lengths = torch.linalg.vector_norm(x.detach(), dim=channels, keepdim=True)
        norms = lengths.mean(dim=tuple(range(1, x.ndim)), keepdim=True)
        planes = [values, *(torch.zeros_like(values) for _ in self.weights[1:])]
        tracked = reference is Reference.TRACKING
        return z, Transmitted(planes, None if tracked else x, z if len(planes) > 1 else None, norms)

    def residual(
        self, x: Tensor, state: Transmitted, reference: Reference, policy: Policy
    ) -> Tensor:
        """A residual frame; brings the state forward."""
        delta = x - (sum(state.planes[1:], state.planes[0]) if state.x is None else state.x)
        planes = list(state.planes)
        for plane, update in self._updates(delta, policy, state.norms):
            scale = self.quantizers.planes[plane].scale
            planes[plane] = _on_grid(planes[plane] + update, scale)
        if reference is not Reference.KEYFRAME:
            state.planes = planes
        if reference is Reference.PREVIOUS:
            state.x = x
        if state.z is None:
            return self._product(planes[0], self.weights[0], self.op.bias)
        z = state.z
        for values, weight in zip(planes[1:], self.weights[1:], strict=True):
            z = z + self._product(values, weight)
        return z

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.mixed):
            return self.op.apply(x, weight, bias).float()

    def _updates(self, delta: Tensor, policy: Policy, norms: Tensor) -> list[tuple[int, Tensor]]:
        """What is transmitted of a residual, and in which plane."""
        pool = list(zip(self.quantizers.pool, self.pool_scales, strict=True))
        found = [
            (entry.plane, _quantized(delta, scale, entry.scale, entry.bits) if entry.bits else None)
            for entry, scale in pool
        ]
        if len(pool) == 1:
            return [(plane, update) for plane, update in found if update is not None]
        index = self._chosen(delta.detach(), [u for _, u in found], policy, norms)
        return [
            (plane, update * (index == i))
            for i, (plane, update) in enumerate(found)
            if update is not None
        ]

    @torch.no_grad()
    def _chosen(
        self, delta: Tensor, updates: list[Tensor | None], policy: Policy, norms: Tensor
    ) -> Tensor:
        weight = self.quantizers.residual_weight
        assert weight is not None
        each = [policy.gain(weight.norm, norm) for norm in norms.flatten().tolist()]
        gains = torch.tensor(each, dtype=delta.dtype, device=delta.device).view_as(norms)
        errors = [
            torch.linalg.vector_norm(
                delta if u is None else delta - u, dim=self.op.channel_dim, keepdim=True
            )
            * gains
            for u in updates
        ]
        return choose(errors, policy.threshold_for(self.op.name), policy.looks_ahead)


class _As(torch.autograd.Function):
    """A number in place of a tensor of about that value, which gets its gradient."""

    @staticmethod
    def forward(_ctx: torch.autograd.function.FunctionCtx, x: Tensor, value: float) -> Tensor:
        return torch.full_like(x, value)

    @staticmethod
    def backward(_ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _as(x: Tensor, value: float) -> Tensor:
    found: Tensor = _As.apply(x, value)  # type: ignore[no-untyped-call]
    return found


def _quantized(x: Tensor, scale: Tensor, exact: float, bits: int, signed: bool = True) -> Tensor:
    """`fake_quantize`, rounding as inference does: its scales are doubles, and residuals of whole
    steps lie on ties between two codes."""
    codes = fake_quantize(x * _as(1.0 / scale, 1.0 / exact), 1.0, bits, signed)
    return codes * _as(scale, exact)


def _on_grid(values: Tensor, scale: float) -> Tensor:
    """Sums of whole steps, without what adding them up in float32 leaves: ties between two codes
    are common, and have to fall as in inference. They end at int8, and so does their gradient."""
    inside = values.clamp(_LOW * scale, _HIGH * scale)
    return inside + ((inside / scale).round() * scale - inside).detach()


def _trained(op: LinearOp, weight: QuantizedWeight) -> Tensor:
    """ŵ in value, the layer's weight in gradient."""
    return fake_quantize(op.weight, op.channels_to_weight(weight.scale), weight.bits)
