"""A network at one precision: quantizers for every layer, and an executor for every input size.

A `Runtime` is immutable: weights, graphs, scales. Everything that changes lives in the
`StreamState` that is passed in, so one runtime serves any number of threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from torch import Tensor

from resq_core.backends import Backend, Serving
from resq_core.backends.choice import executor_for
from resq_core.bops import LayerReport
from resq_core.encodings import Encodings, Granularity, Role, Slot, frame_slot
from resq_core.executor import Executor, FrameRun, bit_map_cells
from resq_core.graph import Graph
from resq_core.graph_cache import GraphCache
from resq_core.half_storage import with_half_storage
from resq_core.linear_op import LinearOp
from resq_core.policy import Policy
from resq_core.precision import Precision
from resq_core.residual import LayerQuantizers, QuantizedWeight, Reference
from resq_core.state import StreamState

__all__ = ["Grid", "Runtime"]

_MAX_EXECUTORS = 8


class Grid(StrEnum):
    """How the scales of a layer relate.

    FREE: each as Eq. 8 found it, as in the paper; a convolution runs once per scale in use.
    ALIGNED: residual scales are whole multiples of one step, the keyframe's own where the weights
        are the keyframe's, so that one integer convolution serves.
    """

    FREE = "free"
    ALIGNED = "aligned"


class _Made(NamedTuple):
    """All that runs one input size."""

    graph: Graph
    executor: Executor
    serving: Serving


class Runtime:
    """Quantized layers of one network at one precision.

    Args:
        graphs: the network.
        encodings: scales; must hold those that `precision` needs.
        precision: bits.
        grid: how the scales of a layer relate.
        backend: what shall run it.

    Raises:
        CalibrationError: a scale is missing.
        BackendError: the backend that was asked for cannot be used here, or not on the device.
    """

    def __init__(
        self,
        graphs: GraphCache,
        encodings: Encodings,
        precision: Precision,
        grid: Grid,
        backend: Backend,
    ) -> None:
        encodings.require(precision)
        self._graphs, self._encodings = graphs, encodings
        self._precision, self._grid, self._backend = precision, grid, backend
        self._made: OrderedDict[tuple[tuple[int, ...], ...], _Made] = OrderedDict()
        self._lock = threading.Lock()

    def inputs(self, x: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Inputs checked, on the device that runs them. Raises InputError."""
        return self._graphs.inputs(x)

    def run_anchor(
        self,
        inputs: Sequence[Tensor],
        state: StreamState,
        reference: Reference | None,
        refresh: bool,
        bit_map: bool,
    ) -> FrameRun:
        """Run a keyframe, see `Executor.anchor`."""
        return self.executor(inputs).anchor(inputs, state, reference, refresh, bit_map)

    def run_residual(
        self,
        inputs: Sequence[Tensor],
        state: StreamState,
        reference: Reference,
        policy: Policy,
        bit_map: bool,
        most: float = 1.0,
    ) -> FrameRun:
        """Run a residual frame against `state`, see `Executor.residual`."""
        return self.executor(inputs).residual(inputs, state, reference, policy, bit_map, most)

    def run_nothing(self, inputs: Sequence[Tensor], output: Any, bit_map: bool) -> FrameRun:
        """A frame that repeats `output`: what it costs is nothing, layer by layer."""
        graph = self._at(inputs).graph
        reports = (
            LayerReport(op.name, graph.macs[op.name], 0, 0, 0.0, 0.0, 0.0, 0.0) for op in graph.ops
        )
        return FrameRun(output, tuple(reports), bit_map_cells(inputs[0]) if bit_map else None)

    def executor(self, inputs: Sequence[Tensor]) -> Executor:
        """What runs inputs of these shapes."""
        return self._at(inputs).executor

    def serving(self, inputs: Sequence[Tensor]) -> Serving:
        """Which backend runs inputs of these shapes."""
        return self._at(inputs).serving

    def _at(self, inputs: Sequence[Tensor]) -> _Made:
        shapes = tuple(tuple(x.shape) for x in inputs)
        with self._lock:
            found = self._made.get(shapes)
            if found is not None:
                self._made.move_to_end(shapes)
                return found
        graph = self._graphs.graph(inputs)
        layers = {op.name: self._quantizers(op) for op in graph.ops}
        graph = with_half_storage(graph, layers.values(), inputs)
        made = _Made(graph, *executor_for(self._backend, graph, layers, inputs))
        with self._lock:
            self._made[shapes] = made
            if len(self._made) > _MAX_EXECUTORS:
                self._made.popitem(last=False)
        return made

    def _quantizers(self, op: LinearOp) -> LayerQuantizers:
        p, name = self._precision, op.name
        per_channel = self._encodings.granularity is Granularity.CHANNEL
        frame = frame_slot(p)
        weight = QuantizedWeight.of(op, p.weight_bits, per_channel)
        residual: QuantizedWeight | None = None
        pool: tuple[tuple[int, float], ...] = ()
        if p.residual_weight_bits is not None:
            residual = weight
            if p.residual_weight_bits != p.weight_bits:
                residual = QuantizedWeight.of(op, p.residual_weight_bits, per_channel)
            slots = [Slot(Role.RESIDUAL, p.residual_weight_bits, bits) for bits in p.pool]
            pool = tuple((s.activation_bits, self._encodings.scale(s, name)) for s in slots)
        return LayerQuantizers.of(
            op,
            (p.activation_bits, self._encodings.scale(frame, name)),
            weight,
            pool,
            residual,
            aligned=self._grid is Grid.ALIGNED,
            signed=self._encodings.signed(frame, name),
        )
