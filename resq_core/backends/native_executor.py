"""The native executor: a planned program in compiled code, one call per frame where it can be."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from resq_core.backends.extension import load_extension
from resq_core.backends.planning import Import, NativePlan, NativeRun, TorchCall, plan_native
from resq_core.bops import LayerReport, LayerReports, policy_cost
from resq_core.executor import REFRESH_PAYS, FrameRun, GivenUpError, bit_map_cells, refreshes
from resq_core.graph import Graph, Ref, resolve
from resq_core.policy import Policy, PolicyForm
from resq_core.residual import LayerQuantizers, Reference
from resq_core.state import StreamState

__all__ = ["NativeExecutor", "StepTime"]

_log = logging.getLogger(__name__)
_told: set[str] = set()  # of ops, to say the same once a process

_REFERENCES = {Reference.KEYFRAME: 0, Reference.PREVIOUS: 1, Reference.TRACKING: 2}
_ZERO_CODE = 128
_ALIGNMENT = 64
_CLIPPED, _ACTIVE_IN, _ACTIVE_OUT = (
    9,
    10,
    11,
)  # columns of a frame's statistics, behind the counts by pool entry


@dataclass(slots=True)
class _NativeMemory:
    """One block of bytes that only the program's compiled code reads.

    Attributes:
        block: uint8, aligned to 64 bytes.
        spare: where the block goes when its stream is done with it.
        policy: that every pixel without pending work was last judged by; None after a keyframe.
    """

    block: Tensor
    spare: deque[Tensor]
    policy: Policy | None = None

    def __del__(self) -> None:
        self.spare.append(self.block)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.block.untyped_storage().nbytes()


@dataclass(frozen=True, slots=True)
class StepTime:
    """What a step of the program took in one frame, on the thread that runs the frame.

    Attributes:
        name: a layer's name, or an op's.
        seconds: of the whole step, waiting for other threads included.
        product_seconds: of these, in a layer's products.
        pixels: output pixels of a layer that all threads computed; 0 of an op.
    """

    name: str
    seconds: float
    product_seconds: float
    pixels: int


class NativeExecutor:
    """See `Executor`.

    Args:
        graph: the network.
        layers: quantizers by layer name.
        inputs: example inputs; only shapes matter.
        isa: which kernels, one of `ISAS` of `resq_core.backends.extension`.

    Raises:
        UnplannableError: a layer is of a form that the program does not know.
    """

    def __init__(
        self,
        graph: Graph,
        layers: Mapping[str, LayerQuantizers],
        inputs: Sequence[Tensor],
        isa: str,
    ) -> None:
        self._native = load_extension()
        self._graph = graph
        self._plan: NativePlan = plan_native(self._native, isa, graph, layers, inputs)
        self.backend = f"native ({isa})"
        self._order = [self._plan.layers.index(op.name) for op in graph.ops]
        self._layers = [layers[op.name] for op in graph.ops]
        self._macs = [graph.macs[op.name] for op in graph.ops]
        self._outputs = [r.slot for r in pytree.tree_leaves(graph.outputs) if isinstance(r, Ref)]
        self._sizes = _sizes(graph, self._layers, inputs)
        self._constants = _Constants(self._layers, self._macs, self._sizes)
        self._refreshes = refreshes(layers, Reference.TRACKING)
        # The last block that a stream gave back, by reference: fresh memory costs a first keyframe
        # as long as the keyframe itself. What is around the codes stays as it is in it.
        self._spare: list[deque[Tensor]] = [deque(maxlen=1) for _ in _REFERENCES]
        self._known_thresholds: tuple[Policy | None, list[float]] | None = None
        self._anchor_reports = LayerReports.of(map(self._anchor_report, range(len(self._layers))))
        foreign = ", ".join(self._plan.foreign)
        if foreign and foreign not in _told:
            _told.add(foreign)
            _log.warning("these ops run through torch, between native ones: %s", foreign)

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
        may = refresh and reference is Reference.TRACKING and self._refreshes
        if may and isinstance(known, _NativeMemory):
            return self._refresh(inputs, known, bit_map)
        block = None
        if reference is None:
            state.memory = None
        else:
            memory = self._memory(state, reference)
            block = memory.block
            memory.policy = None
        frame = self._frame(block, reference or Reference.TRACKING, None)
        output = self._run(frame, inputs)
        frame.finish()
        cells = None
        if bit_map:
            bits = self._layers[0].frame_bits if self._layers else 0
            cells = bit_map_cells(inputs[0]) + float(bits)
        return FrameRun(output, self._anchor_reports, cells)

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
        return self._residual(inputs, state, reference, policy, bit_map, most=most)[0]

    def timed_residual(
        self, inputs: Sequence[Tensor], state: StreamState, reference: Reference, policy: Policy
    ) -> tuple[FrameRun, tuple[StepTime, ...]]:
        """Run a residual frame as `residual` does, and tell what every step of it took."""
        run, frame = self._residual(inputs, state, reference, policy, False, timed=True)
        times = zip(self._plan.steps, frame.times(), strict=True)
        return run, tuple(StepTime(name, *time) for name, time in times)

    def _residual(
        self,
        inputs: Sequence[Tensor],
        state: StreamState,
        reference: Reference,
        policy: Policy,
        bit_map: bool,
        *,
        most: float = 1.0,
        timed: bool = False,
    ) -> tuple[FrameRun, Any]:
        """The frame's run, and the frame."""
        memory = state.memory
        assert isinstance(memory, _NativeMemory)
        anew = memory.policy is not None and memory.policy != policy
        frame = self._frame(
            memory.block, reference, policy, most, anew=anew, bits=bit_map, timed=timed
        )
        output = self._run(frame, inputs)
        stats = frame.finish()[self._order]
        memory.policy = policy
        cells = self._cells(frame, inputs) if bit_map else None
        return FrameRun(output, self._reports(stats), cells), frame

    def _refresh(self, inputs: Sequence[Tensor], memory: _NativeMemory, bit_map: bool) -> FrameRun:
        """A keyframe made of what differs from the state."""
        frame = self._frame(
            memory.block, Reference.TRACKING, None, REFRESH_PAYS, refresh=True, bits=bit_map
        )
        output = self._run(frame, inputs)
        stats = frame.finish()[self._order].tolist()
        memory.policy = None
        reports = LayerReports.of(self._refresh_report(i, row) for i, row in enumerate(stats))
        return FrameRun(output, reports, self._cells(frame, inputs) if bit_map else None, True)

    def _cells(self, frame: Any, inputs: Sequence[Tensor]) -> Tensor:
        rows, columns = bit_map_cells(inputs[0]).shape
        weighted = torch.from_numpy(frame.bit_map(rows, columns))
        return (weighted / max(sum(self._macs), 1)).float()

    def _memory(self, state: StreamState, reference: Reference) -> _NativeMemory:
        size = self._plan.program.state_bytes(_REFERENCES[reference])
        memory = state.memory
        if not isinstance(memory, _NativeMemory) or memory.block.numel() != size:
            spare = self._spare[_REFERENCES[reference]]
            try:
                block = spare.pop()
            except IndexError:
                block = _block(size)
            memory = state.memory = _NativeMemory(block, spare)
        return memory

    def _frame(
        self,
        block: Tensor | None,
        reference: Reference,
        policy: Policy | None,
        most: float = 1.0,
        *,
        anew: bool = False,
        refresh: bool = False,
        bits: bool = False,
        timed: bool = False,
    ) -> Any:
        return self._native.Frame(
            self._plan.program,
            None if block is None else block.numpy(),
            anchor=policy is None and not refresh,
            reference=_REFERENCES[reference],
            relative=policy is not None and policy.form is PolicyForm.RELATIVE,
            look_everywhere=anew,
            refresh=refresh,
            bits=bits,
            timed=timed,
            threads=torch.get_num_threads(),
            probe=self._order[0] if most < 1 and self._order else -1,
            most=most,
            thresholds=self._thresholds(policy),
        )

    def _thresholds(self, policy: Policy | None) -> Sequence[float]:
        """By layer of the program; streams seldom change their policy."""
        known = self._known_thresholds
        if known is None or known[0] != policy:
            layers = self._plan.layers
            found = [0.0 if policy is None else policy.threshold_for(name) for name in layers]
            known = self._known_thresholds = policy, found
        return known[1]

    def _run(self, frame: Any, inputs: Sequence[Tensor]) -> Any:
        plan = self._plan
        env: list[Any] = [None] * self._graph.n_slots
        env[: len(inputs)] = inputs
        for item in plan.items:
            if isinstance(item, NativeRun):
                if not frame.run(item.first, item.last):
                    raise GivenUpError
            elif isinstance(item, Import):
                value = env[item.slot]
                if item.rows:
                    if value.ndim != 4:
                        value = value.reshape(1, 1, -1, value.shape[-1])
                    value = value.permute(0, 3, 1, 2)
                frame.bind(item.step, value.detach().numpy())
            else:
                self._call(item, frame, env)
        for slot in self._outputs:
            if slot in plan.tensors and env[slot] is None:
                env[slot] = self._read(frame, slot)
        for i, slot in enumerate(self._outputs):  # what torch made may share memory with an input
            outside = slot not in plan.tensors or slot in self._outputs[:i]
            if outside and isinstance(env[slot], Tensor):
                env[slot] = env[slot].clone()
        leaves = list(resolve(self._graph.outputs, env))
        return pytree.tree_unflatten(leaves, self._graph.out_spec)

    def _call(self, item: TorchCall, frame: Any, env: list[Any]) -> None:
        for slot in item.reads:
            if env[slot] is None:
                env[slot] = self._read(frame, slot)
        call = item.call
        env[call.slot] = call.target(*resolve(call.args, env), **resolve(call.kwargs, env))
        for slot in call.frees:
            env[slot] = None

    def _read(self, frame: Any, slot: int) -> Tensor:
        exposed = self._plan.tensors[slot]
        out = torch.empty(exposed.pixels)
        frame.read(exposed.tensor, out.numpy())
        if not exposed.rows:
            return out
        return out.permute(0, 2, 3, 1).reshape(exposed.shape).contiguous()

    def _anchor_report(self, i: int) -> LayerReport:
        layer, macs = self._layers[i], self._macs[i]
        bits = layer.frame_bits
        bops = round(macs * layer.planes[0].weight.bits * float(bits))
        return LayerReport(
            layer.op.name, macs, bops, 0, float(bits), float(bits > 0), 0.0, float(bits > 0)
        )

    def _refresh_report(self, i: int, row: list[int]) -> LayerReport:
        layer, macs, size = self._layers[i], self._macs[i], self._sizes[i]
        share = row[_ACTIVE_IN] / size.pixels
        bits = share * layer.frame_bits
        bops = round(macs * layer.planes[0].weight.bits * bits)
        active = row[_ACTIVE_OUT] / size.outputs
        return LayerReport(layer.op.name, macs, bops, 0, bits, active, 0.0, share)

    def _reports(self, stats: NDArray[np.int64]) -> LayerReports:
        """Of a residual frame, from its statistics [layers, columns], in execution order."""
        k = self._constants
        bits = k.first_bits + (stats[:, :_CLIPPED] * k.more_bits).sum(1) / k.pixels
        return LayerReports(
            k.names,
            k.macs,
            np.rint(k.macs * k.weight_bits * bits).astype(np.int64),
            k.policy_bops,
            bits,
            stats[:, _ACTIVE_OUT] / k.outputs,
            stats[:, _CLIPPED] / k.elements,
            stats[:, _ACTIVE_IN] / k.pixels,
        )


def _block(size: int) -> Tensor:
    """Zero codes, uint8 [size]."""
    room = torch.empty(size + _ALIGNMENT, dtype=torch.uint8)
    room.numpy().fill(_ZERO_CODE)  # torch's threads would go on spinning
    start = -room.data_ptr() % _ALIGNMENT
    return room[start : start + size]


class _Constants:
    """What reports need of all layers, a row each, in execution order."""

    def __init__(
        self, layers: Sequence[LayerQuantizers], macs: Sequence[int], sizes: Sequence[_Size]
    ) -> None:
        def column(values: Iterable[int]) -> NDArray[np.int64]:
            return np.array(list(values), np.int64)

        self.names = [layer.op.name for layer in layers]
        self.macs = column(macs)
        self.weight_bits = column(
            layer.residual_weight.bits if layer.residual_weight else 0 for layer in layers
        )
        self.first_bits = column(layer.pool[0].bits if layer.pool else 0 for layer in layers)
        self.more_bits = np.zeros((len(layers), _CLIPPED), np.int64)  # above the first, by choice
        for row, layer in zip(self.more_bits, layers, strict=True):
            row[: len(layer.pool)] = [e.bits - layer.pool[0].bits for e in layer.pool]
        self.pixels = column(size.pixels for size in sizes)
        self.elements = column(size.elements for size in sizes)
        self.outputs = column(size.outputs for size in sizes)
        self.policy_bops = column(
            policy_cost(size.elements, len(layer.pool))
            for layer, size in zip(layers, sizes, strict=True)
        )


@dataclass(frozen=True, slots=True)
class _Size:
    """Of one layer: input pixels and elements, and output pixels."""

    pixels: int
    elements: int
    outputs: int


def _sizes(
    graph: Graph, layers: Sequence[LayerQuantizers], inputs: Sequence[Tensor]
) -> list[_Size]:
    shapes = graph.shapes(inputs)
    calls = {call.op.name: call for call in graph.calls if call.op is not None}
    sizes = []
    for layer in layers:
        call, dim = calls[layer.op.name], layer.op.channel_dim
        before, after = shapes[call.args[0].slot], shapes[call.slot]
        assert before is not None
        assert after is not None
        elements = math.prod(before)
        sizes.append(_Size(elements // before[dim], elements, math.prod(after) // after[dim]))
    return sizes
