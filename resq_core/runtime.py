"""The reference executor: one frame through a captured graph, in plain PyTorch.

A `Runtime` is immutable: weights, graphs, scales. Everything that changes lives in the
`StreamState` that is passed in, so one runtime serves any number of threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resq_core.bops import LayerReport, policy_cost
from resq_core.capture import Graph
from resq_core.encodings import Encodings, Granularity, Role, Slot
from resq_core.graph_cache import GraphCache
from resq_core.linear_op import LinearOp
from resq_core.policy import Policy
from resq_core.precision import Precision
from resq_core.residual import (
    LayerQuantizers,
    QuantizedWeight,
    Reference,
    Step,
    anchor_step,
    residual_step,
)
from resq_core.state import StreamState

__all__ = ["BIT_MAP_STRIDE", "FrameRun", "Grid", "Runtime"]

BIT_MAP_STRIDE = 8
"""Input pixels per side of one cell of a bit map."""

_MAX_PLANS = 8


class Grid(StrEnum):
    """How the scales of a dynamic pool relate.

    FREE: each as Eq. 8 found it; a convolution runs once per quantizer in use.
    ALIGNED: every scale is a whole multiple of the finest, so one integer convolution serves.
    """

    FREE = "free"
    ALIGNED = "aligned"


@dataclass(frozen=True, slots=True)
class _Plan:
    graph: Graph
    layers: dict[str, LayerQuantizers]


@dataclass(slots=True)
class FrameRun:
    """What one frame gave: the network's output, a report per layer, and the bit map if asked.

    Attributes:
        output: what the module returns.
        layers: in execution order.
        bit_map: float32 [ceil(H/8), ceil(W/8)], mean bits of what each place cost, or None.
    """

    output: Any
    layers: tuple[LayerReport, ...]
    bit_map: Tensor | None


class Runtime:
    """Quantized layers of one network at one precision.

    Args:
        graphs: the network.
        encodings: scales; must hold those that `precision` needs.
        precision: bits.
        grid: how the scales of a dynamic pool relate.

    Raises:
        CalibrationError: a scale is missing.
    """

    def __init__(
        self, graphs: GraphCache, encodings: Encodings, precision: Precision, grid: Grid
    ) -> None:
        encodings.require(precision)
        self._graphs, self._encodings = graphs, encodings
        self._precision, self._grid = precision, grid
        self._plans: OrderedDict[tuple[tuple[int, ...], ...], _Plan] = OrderedDict()
        self._lock = threading.Lock()

    def run_anchor(
        self,
        inputs: Sequence[Tensor],
        state: StreamState,
        reference: Reference | None,
        bit_map: bool,
    ) -> FrameRun:
        """Run a keyframe and, with a reference, replace `state`'s layers."""
        plan = self._plan(inputs)
        state.layers.clear()

        def step(layer: LayerQuantizers, x: Tensor) -> Step:
            result, kept = anchor_step(layer, x, reference)
            if kept is not None:
                state.layers[layer.op.name] = kept
            return result

        return _Recorder(plan, inputs, bit_map, is_anchor=True).run(step)

    def run_residual(
        self,
        inputs: Sequence[Tensor],
        state: StreamState,
        reference: Reference,
        policy: Policy,
        bit_map: bool,
    ) -> FrameRun:
        """Run a residual frame against `state`, which a keyframe of these shapes has filled."""
        plan = self._plan(inputs)

        def step(layer: LayerQuantizers, x: Tensor) -> Step:
            return residual_step(layer, x, state.layers[layer.op.name], reference, policy)

        return _Recorder(plan, inputs, bit_map, is_anchor=False).run(step)

    def run_nothing(self, inputs: Sequence[Tensor], output: Any, bit_map: bool) -> FrameRun:
        """A frame that repeats `output`: what it costs is nothing, layer by layer."""
        plan = self._plan(inputs)
        reports = (
            LayerReport(op.name, plan.graph.macs[op.name], 0, 0, 0.0, 0.0, 0.0, 0.0)
            for op in plan.graph.ops
        )
        return FrameRun(output, tuple(reports), _cells(inputs[0]) if bit_map else None)

    def _plan(self, inputs: Sequence[Tensor]) -> _Plan:
        shapes = tuple(tuple(x.shape) for x in inputs)
        with self._lock:
            found = self._plans.get(shapes)
            if found is not None:
                self._plans.move_to_end(shapes)
                return found
        graph = self._graphs.graph(inputs)
        plan = _Plan(graph, {op.name: self._quantizers(op) for op in graph.ops})
        with self._lock:
            self._plans[shapes] = plan
            if len(self._plans) > _MAX_PLANS:
                self._plans.popitem(last=False)
        return plan

    def _quantizers(self, op: LinearOp) -> LayerQuantizers:
        p, name = self._precision, op.name
        per_channel = self._encodings.granularity is Granularity.CHANNEL
        frame = Slot(Role.FRAME, p.weight_bits, p.activation_bits)
        weight = QuantizedWeight.of(op, p.weight_bits, per_channel)
        residual: QuantizedWeight | None = None
        pool: tuple[tuple[int, float], ...] = ()
        if p.residual_weight_bits is not None:
            residual = weight
            if p.residual_weight_bits != p.weight_bits:
                residual = QuantizedWeight.of(op, p.residual_weight_bits, per_channel)
            slots = [Slot(Role.RESIDUAL, p.residual_weight_bits, bits) for bits in p.pool]
            pool = tuple((s.activation_bits, self._encodings.scale(s, name)) for s in slots)
            if self._grid is Grid.ALIGNED and len(pool) > 1:
                pool = _aligned(pool)
        return LayerQuantizers(
            op=op,
            frame_bits=p.activation_bits,
            frame_scale=self._encodings.scale(frame, name),
            frame_weight=weight,
            pool=pool,
            residual_weight=residual,
            aligned=self._grid is Grid.ALIGNED,
        )


def _aligned(pool: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    """Move every scale to the nearest whole multiple of the last one, 1 to 2^(8 − b).

    The bound keeps multiple × code within int8 for a code of b bits.
    """
    top = pool[-1][1]
    return tuple(
        (bits, top * min(max(round(scale / top), 1), 2 ** (8 - bits)) if bits else 1.0)
        for bits, scale in pool
    )


class _Recorder:
    """Runs a plan once and notes what every layer did."""

    def __init__(
        self, plan: _Plan, inputs: Sequence[Tensor], bit_map: bool, is_anchor: bool
    ) -> None:
        self._plan, self._inputs, self._is_anchor = plan, inputs, is_anchor
        self._reports: list[LayerReport] = []
        self._map: Tensor | None = None
        if bit_map:
            self._map = _cells(inputs[0])

    def run(self, step: Any) -> FrameRun:
        def linear(op: LinearOp, x: Tensor) -> Tensor:
            layer = self._plan.layers[op.name]
            result: Step = step(layer, x)
            self._note(layer, result)
            return result.z

        output = self._plan.graph.run(self._inputs, linear)
        macs = sum(r.macs for r in self._reports)
        bit_map = None if self._map is None else self._map / max(macs, 1)
        return FrameRun(output, tuple(self._reports), bit_map)

    def _note(self, layer: LayerQuantizers, step: Step) -> None:
        macs = self._plan.graph.macs[layer.op.name]
        if isinstance(step.bits, int):
            mean_bits, active = float(step.bits), 1.0 if step.bits else 0.0
            active_inputs = active
        else:
            mean_bits = step.bits.mean().item()
            changed = step.bits > 0
            active = layer.op.active_outputs(changed)
            active_inputs = changed.float().mean().item()
        weight = layer.frame_weight if self._is_anchor else layer.residual_weight
        assert weight is not None
        n_quantizers = 0 if self._is_anchor else len(layer.pool)
        self._reports.append(
            LayerReport(
                name=layer.op.name,
                macs=macs,
                bops=round(macs * weight.bits * mean_bits),
                policy_bops=policy_cost(step.elements, n_quantizers),
                mean_bits=mean_bits,
                active_fraction=active,
                clipped_fraction=step.clipped / max(step.elements, 1),
                input_active_fraction=active_inputs,
            )
        )
        if self._map is not None:
            self._map += macs * _on_grid(layer.op, step.bits, mean_bits, self._map)


def _cells(x: Tensor) -> Tensor:
    """Zeros, one for each cell of the frame; a single one for an input that is no image."""
    height, width = x.shape[-2:] if x.ndim >= 4 else (1, 1)
    return torch.zeros(-(-height // BIT_MAP_STRIDE), -(-width // BIT_MAP_STRIDE))


def _on_grid(op: LinearOp, bits: Tensor | int, mean_bits: float, grid: Tensor) -> Tensor:
    """A layer's bits on the cells of the frame; a layer without an image spreads its mean."""
    if isinstance(bits, int) or bits.ndim != 4:
        return torch.full_like(grid, mean_bits)
    image = bits.movedim(op.channel_dim, 1)
    if image.shape[2] == 1 < grid.shape[0]:  # a sequence, held as an image of one row
        return torch.full_like(grid, mean_bits)
    return F.interpolate(image, size=grid.shape, mode="area").mean(dim=(0, 1))
