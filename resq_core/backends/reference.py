"""The reference executor: a captured graph in plain PyTorch. It defines what is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from resq_core.bops import LayerReport, policy_cost
from resq_core.executor import REFRESH_PAYS, FrameRun, GivenUpError, bit_map_cells, refreshes
from resq_core.graph import Graph
from resq_core.linear_op import LinearOp
from resq_core.policy import Policy
from resq_core.residual import (
    LayerQuantizers,
    Reference,
    Step,
    anchor_step,
    refresh_step,
    residual_step,
)
from resq_core.state import Layers, StreamState

__all__ = ["ReferenceExecutor", "reference_name"]


def reference_name(device: torch.device) -> str:
    """This backend's name, with the device where that is not the CPU."""
    return "reference" if device.type == "cpu" else f"reference ({device})"


class ReferenceExecutor:
    """See `Executor`.

    Attributes:
        graph: the network.
        layers: quantizers by layer name.
        device: where graph and quantizers are.
    """

    def __init__(
        self, graph: Graph, layers: Mapping[str, LayerQuantizers], device: torch.device
    ) -> None:
        self.graph, self.layers = graph, layers
        self.backend = reference_name(device)

    def anchor(
        self,
        inputs: Sequence[Tensor],
        state: StreamState,
        reference: Reference | None,
        refresh: bool,
        bit_map: bool,
    ) -> FrameRun:
        """Run a keyframe, see `Executor.anchor`."""
        known = state.memory
        if refresh and refreshes(self.layers, reference) and isinstance(known, Layers):

            def again(layer: LayerQuantizers, x: Tensor) -> Step:
                result = refresh_step(layer, x, known.layers[layer.op.name])
                self._check(layer, result, REFRESH_PAYS)
                return result

            recorder = _Recorder(self.graph, self.layers, inputs, bit_map, is_anchor=True)
            return replace(recorder.run(again), refreshed=True)
        memory = Layers()
        state.memory = None if reference is None else memory

        def step(layer: LayerQuantizers, x: Tensor) -> Step:
            result, kept = anchor_step(layer, x, reference)
            if kept is not None:
                memory.layers[layer.op.name] = kept
            return result

        return _Recorder(self.graph, self.layers, inputs, bit_map, is_anchor=True).run(step)

    def residual(
        self,
        inputs: Sequence[Tensor],
        state: StreamState,
        reference: Reference,
        policy: Policy,
        bit_map: bool,
        most: float = 1.0,
    ) -> FrameRun:
        """Run a residual frame, see `Executor.residual`."""
        memory = state.memory
        assert isinstance(memory, Layers)

        def step(layer: LayerQuantizers, x: Tensor) -> Step:
            result = residual_step(layer, x, memory.layers[layer.op.name], reference, policy)
            self._check(layer, result, most)
            return result

        return _Recorder(self.graph, self.layers, inputs, bit_map, is_anchor=False).run(step)

    def _check(self, layer: LayerQuantizers, step: Step, most: float) -> None:
        """Give up if this is the first layer, and finds more of its input active."""
        active = step.active
        assert active is not None
        if layer.op.name == self.graph.ops[0].name and int(active.sum()) > most * active.numel():
            raise GivenUpError


class _Recorder:
    """Runs a graph once and notes what every layer did."""

    def __init__(
        self,
        graph: Graph,
        layers: Mapping[str, LayerQuantizers],
        inputs: Sequence[Tensor],
        bit_map: bool,
        is_anchor: bool,
    ) -> None:
        self._graph, self._layers = graph, layers
        self._inputs, self._is_anchor = inputs, is_anchor
        self._reports: list[LayerReport] = []
        self._map = bit_map_cells(inputs[0]) if bit_map else None

    def run(self, step: Callable[[LayerQuantizers, Tensor], Step]) -> FrameRun:
        def linear(op: LinearOp, x: Tensor) -> Tensor:
            layer = self._layers[op.name]
            result = step(layer, x)
            self._note(layer, result)
            return result.z

        # copies: the state keeps values of the graph, and the caller owns both ends of it
        output = self._graph.run([x.clone() for x in self._inputs], linear)
        output = pytree.tree_map_only(Tensor, torch.clone, output)
        macs = sum(r.macs for r in self._reports)
        bit_map = None if self._map is None else self._map / max(macs, 1)
        return FrameRun(output, tuple(self._reports), bit_map)

    def _note(self, layer: LayerQuantizers, step: Step) -> None:
        macs = self._graph.macs[layer.op.name]
        mean_bits = float(step.bits) if isinstance(step.bits, int) else step.bits.mean().item()
        weight = layer.planes[0].weight if self._is_anchor else layer.residual_weight
        assert weight is not None
        if step.active is None:
            active = active_inputs = 1.0 if step.bits else 0.0
        else:
            active = layer.op.active_outputs(step.active)
            active_inputs = step.active.float().mean().item()
        self._reports.append(
            LayerReport(
                name=layer.op.name,
                macs=macs,
                bops=round(macs * weight.bits * mean_bits),
                policy_bops=policy_cost(step.elements, 0 if self._is_anchor else len(layer.pool)),
                mean_bits=mean_bits,
                active_fraction=active,
                clipped_fraction=step.clipped / max(step.elements, 1),
                input_active_fraction=active_inputs,
            )
        )
        if self._map is not None:
            self._map += macs * _on_grid(layer.op, step.bits, mean_bits, self._map)


def _on_grid(op: LinearOp, bits: Tensor | int, mean_bits: float, grid: Tensor) -> Tensor:
    """A layer's bits on the cells of the frame; a layer without an image spreads its mean."""
    if isinstance(bits, int) or bits.ndim != 4:
        return torch.full_like(grid, mean_bits)
    image = bits.movedim(op.channel_dim, 1)
    if image.shape[2] == 1 < grid.shape[0]:  # a sequence, held as an image of one row
        return torch.full_like(grid, mean_bits)
    return F.interpolate(image, size=grid.shape, mode="area").mean(dim=(0, 1))
