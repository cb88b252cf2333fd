"""Skip-Convolutions with the norm gate (Habibian et al., CVPR 2021).

With r = x^t − x^{t−1}, an output pixel is computed again where ‖r‖₂ over its window, times ‖w‖_F,
is above a threshold; elsewhere the output of the frame before stays. By Cauchy–Schwarz the product
bounds how far the output can have moved. Two things are done in the method's favour: what is
computed again is w * x^t and not z^{t−1} + w * r, so that nothing that was skipped stays in it, and
the threshold is a share of the mean norm of the layer's own keyframe output, so that one number
serves every layer, as with our relative policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from resq_core.bops import FrameBops, LayerReport, weighted_mean
from resq_core.errors import OptionError
from resq_core.evaluation import StepOutcome
from resq_core.executor import FrameRun
from resq_core.graph_cache import check_inputs
from resq_core.linear_op import Kind, LinearOp
from resq_core.model import QuantizedModel
from resq_core.rivals.dense import DenseLayer, DenseNetwork

__all__ = ["SkipConv"]


@dataclass(slots=True)
class _Kept:
    """What a layer keeps: its last input as read, its last output, ‖z^k‖ at the keyframe."""

    x: Tensor
    z: Tensor
    keyframe_norm: float


class SkipConv:
    """One clip through a network with norm gates; a `Step`.

    Args:
        model: at a precision for frames, for example W8A8.
        threshold: ε ≥ 0, a share of mean‖z^k‖; at 0 whatever changed is computed again.
        period: T, frames from one dense frame to the next.
        in_float: run the float network, counted as 32×32 bits, whatever the model's precision.

    Raises:
        OptionError: an argument is out of range.
    """

    def __init__(
        self, model: QuantizedModel, threshold: float, period: int, in_float: bool = False
    ) -> None:
        if not math.isfinite(threshold) or threshold < 0:
            raise OptionError(
                f"the gate's threshold is {threshold}; expected a finite number of 0 or more"
            )
        if period < 1:
            raise OptionError(f"period T is {period}; expected at least 1")
        self._model, self._in_float = model, in_float
        self._threshold, self._period = threshold, period
        self._network: DenseNetwork | None = None
        self._kept: dict[str, _Kept] = {}
        self._since = 0

    def __call__(self, x: Tensor) -> StepOutcome:
        """The next frame, float32 [1, C, H, W]; the gates' own work is the policy's."""
        run, is_anchor = self.run(x)
        bops, bits = FrameBops.of(run.layers), weighted_mean(run.layers, "mean_bits")
        return StepOutcome(run.output, bops.frame, bops.policy, bits, is_anchor)

    def run(self, x: Tensor | Sequence[Tensor]) -> tuple[FrameRun, bool]:
        """The next frame with a report per layer, and whether it was dense.

        BOPs of a layer are MACs × bits × the share of output pixels that were computed; a gate's
        are one multiply-add per input value and per place of the window.

        Raises:
            InputError, CaptureError, CalibrationError: the frame or the model cannot be used.
        """
        inputs = check_inputs(x)
        shapes = tuple(tuple(t.shape) for t in inputs)
        if self._network is None or self._network.graph.input_shapes != shapes:
            self._network = DenseNetwork.of(self._model, inputs, self._in_float)
            self._since = 0
        network, is_anchor = self._network, self._since % self._period == 0
        reports: list[LayerReport] = []

        def linear(op: LinearOp, v: Tensor) -> Tensor:
            layer = network.layers[op.name]
            gate, changed = self._gated(op, layer, v, is_anchor)
            reports.append(_report(op, layer, network.graph.macs[op.name], v, gate, changed))
            return self._kept[op.name].z

        with torch.no_grad():
            output = network.run(inputs, linear)
        self._since = 1 if is_anchor else self._since + 1
        return FrameRun(output, tuple(reports), None), is_anchor

    def _gated(
        self, op: LinearOp, layer: DenseLayer, v: Tensor, is_anchor: bool
    ) -> tuple[Tensor | None, float]:
        """Bring a layer forward; where it was computed (None: everywhere), and the share of input
        pixels that changed."""
        x, z, kept = layer.read(v), layer.run(v), self._kept.get(op.name)
        if is_anchor or kept is None:
            norm = torch.linalg.vector_norm(z, dim=op.channel_dim).mean().item()
            self._kept[op.name] = _Kept(x, z, norm)
            return None, 1.0
        energy = (x.double() - kept.x).square().sum(op.channel_dim, keepdim=True)
        bound = _over_windows(op, energy).sqrt() * layer.weight_norm
        gate = bound > self._threshold * kept.keyframe_norm
        self._kept[op.name] = replace(kept, x=x, z=torch.where(gate, z, kept.z))
        return gate, (energy > 0).double().mean().item()


def _over_windows(op: LinearOp, energy: Tensor) -> Tensor:
    """Sums over each output pixel's window of a map with one channel; in doubles, whose sums of
    what is not negative are 0 only where all of it is."""
    if op.kind is Kind.LINEAR:
        return energy
    ones = torch.ones(1, 1, *op.weight.shape[2:], dtype=energy.dtype)
    return replace(op, weight=ones, bias=None, groups=1).apply(energy, ones)


def _report(
    op: LinearOp,
    layer: DenseLayer,
    macs: int,
    v: Tensor,
    gate: Tensor | None,
    changed: float,
) -> LayerReport:
    active, gate_macs = 1.0, 0
    if gate is not None:
        window = 1 if op.kind is Kind.LINEAR else op.weight[0, 0].numel()
        active, gate_macs = gate.double().mean().item(), v.numel() + gate.numel() * window
    return LayerReport(
        name=op.name,
        macs=macs,
        bops=round(macs * layer.bops_per_mac * active),
        policy_bops=gate_macs * layer.bops_per_mac,
        mean_bits=layer.activation_bits * active,
        active_fraction=active,
        clipped_fraction=0.0,
        input_active_fraction=changed,
    )
