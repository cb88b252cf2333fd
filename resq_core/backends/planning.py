"""From a captured graph to a native program: what runs where, and which ops run as one.

A value of the graph is *native* where a native step computes it: a list of pixels with channels,
an image [N, C, H, W] or the rows [.., C] of a linear layer. An element-wise op becomes a
post-operation of the step before it where nothing else reads that step's result. Ops that the
program does not know run through torch between two runs of native steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resq_core.graph import Call, Graph, Ref, slots_in
from resq_core.half_storage import round_to_half
from resq_core.linear_op import Kind, LinearOp
from resq_core.lowering import affine
from resq_core.quantizer import code_range
from resq_core.residual import LayerQuantizers

__all__ = [
    "Exposed",
    "Import",
    "NativePlan",
    "NativeRun",
    "TorchCall",
    "UnplannableError",
    "plan_native",
]

_aten = torch.ops.aten


class UnplannableError(Exception):
    """The native backend cannot run this graph; the message says why."""


@dataclass(frozen=True, slots=True)
class NativeRun:
    """Native steps [first, last)."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Import:
    """A value from outside, given to an import step; native code copies what changed."""

    slot: int
    step: int
    rows: bool


@dataclass(frozen=True, slots=True)
class TorchCall:
    """An op that torch runs; `reads` are the native tensors it needs, by slot."""

    call: Call
    reads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Exposed:
    """A native tensor that is read from outside.

    Attributes:
        tensor: its id in the program.
        shape: of the graph's value.
        pixels: (N, C, H, W) as the program sees it.
        rows: the channels come last in `shape`.
    """

    tensor: int
    shape: tuple[int, ...]
    pixels: tuple[int, int, int, int]
    rows: bool


@dataclass(slots=True)
class NativePlan:
    """A finished program and how to drive it.

    Attributes:
        program: the extension's `Program`.
        items: what to do, in order.
        tensors: by slot, the native tensors that are read from outside.
        layers: names in the order of the program's layers.
        steps: what every step is, for people: a layer's name, or an op's.
        foreign: ops that run through torch.
    """

    program: Any
    items: list[NativeRun | Import | TorchCall]
    tensors: dict[int, Exposed]
    layers: list[str]
    steps: list[str]
    foreign: tuple[str, ...]


@dataclass(slots=True)
class _Node:
    """One op on its way into a step."""

    call: Call
    kind: str  # a step, or a post-operation: relu, clamp, affine, add, half
    inputs: tuple[int, ...]  # slots
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Chain:
    """A step: a node and the post-operations behind it. Its result is the last one's."""

    head: _Node
    posts: list[_Node] = field(default_factory=list)
    others: list[int | None] = field(default_factory=list)  # by post: an addition's other operand

    @property
    def slot(self) -> int:
        return (self.posts[-1] if self.posts else self.head).call.slot


def plan_native(
    extension: Any,
    isa: str,
    graph: Graph,
    layers: Mapping[str, LayerQuantizers],
    inputs: Sequence[Tensor],
) -> NativePlan:
    """Plan a graph for the shapes of `inputs`.

    Args:
        extension: the compiled module.
        isa: which kernels.
        graph: the network.
        layers: quantizers by layer name.
        inputs: example inputs; only shapes matter.

    Raises:
        UnplannableError: a layer is of a form that the program does not know.
    """
    return _Planner(extension.Program(isa), extension.Step, graph, layers, inputs).plan()


class _Planner:
    def __init__(
        self,
        program: Any,
        step_type: Any,
        graph: Graph,
        layers: Mapping[str, LayerQuantizers],
        inputs: Sequence[Tensor],
    ) -> None:
        self._program, self._step_type = program, step_type
        self._graph, self._layers = graph, layers
        self._shapes = graph.shapes(inputs)
        self._readers: dict[int, int] = {}  # how many calls and outputs read a slot
        self._ids: dict[int, int] = {}  # native tensors by slot
        self._items: list[NativeRun | Import | TorchCall] = []
        self._exposed: set[int] = set()  # slots read from outside
        self._rows: set[int] = set()  # slots whose pixels are the rows of a linear layer
        self._open: dict[int, _Chain] = {}  # chains that nothing has read yet, by slot
        self._foreign: list[str] = []
        self._layer_names: list[str] = []
        self._step_names: list[str] = []

    def plan(self) -> NativePlan:
        outputs = set(slots_in(self._graph.outputs))
        for slots in [slots_in((c.args, c.kwargs)) for c in self._graph.calls] + [list(outputs)]:
            for slot in slots:
                self._readers[slot] = self._readers.get(slot, 0) + 1
        self._outputs = outputs
        for call in self._graph.calls:
            node = self._node(call)
            if node is None:
                self._torch(call)
            else:
                self._native(node)
        for slot in list(self._open):
            self._close(slot)
        for slot in outputs:
            if slot in self._ids:
                self._expose(slot)
        self._program.finish()
        return NativePlan(
            program=self._program,
            items=self._items,
            tensors={
                s: Exposed(self._ids[s], self._shape(s), self._pixels(s), s in self._rows)
                for s in self._exposed
            },
            layers=self._layer_names,
            steps=self._step_names,
            foreign=tuple(dict.fromkeys(self._foreign)),
        )

    # ---- what a call is

    def _node(self, call: Call) -> _Node | None:
        """The native form of a call, or None where torch has to run it."""
        if call.op is not None:
            x = call.args[0]
            shape = self._shapes[x.slot]
            if shape is None or not _countable(call.op, shape):
                raise UnplannableError(
                    f"layer {call.op.name} takes an input of shape {shape}; "
                    "expected an image [N, C, H, W] or rows [.., C]"
                )
            return _Node(call, "conv", (x.slot,))
        match = _NATIVE.get(call.target)
        rows = not self._rows.isdisjoint(slots_in((call.args, call.kwargs)))
        if match is None or rows or self._shapes[call.slot] is None:
            return None
        made = match(call, self._shapes)
        if made is None:
            return None
        kind, refs, options = made
        return _Node(call, kind, refs, options)

    def _shape(self, slot: int) -> tuple[int, ...]:
        shape = self._shapes[slot]
        assert shape is not None
        return shape

    # ---- chains

    def _native(self, node: _Node) -> None:
        if node.kind not in ("relu", "clamp", "affine", "add", "half"):
            for slot in node.inputs:
                self._need(slot, rows=_is_linear(node))
            self._open[node.call.slot] = _Chain(node)
            if _is_linear(node):
                self._rows.add(node.call.slot)
            return
        chain = self._extendable(node)
        if chain is None:
            first = node.inputs[0]
            self._need(first, rows=False)
            chain = _Chain(_Node(node.call, "copy", (first,)))
            other = node.inputs[1] if node.kind == "add" else None
        else:
            del self._open[chain.slot]
            rest = list(node.inputs)
            rest.remove(chain.slot)
            other = rest[0] if rest else None
        if other is not None:
            self._need(other, rows=False)
        chain.posts.append(node)
        chain.others.append(other)
        self._open[node.call.slot] = chain

    def _extendable(self, node: _Node) -> _Chain | None:
        """The chain that a post-operation joins: one whose result only this node reads."""
        if len(set(node.inputs)) < len(node.inputs):
            return None
        open_ = [
            self._open[slot]
            for slot in node.inputs
            if slot in self._open and self._readers[slot] == 1 and slot not in self._outputs
        ]
        if not open_:
            return None
        # a convolution that has no addition yet gains most: its result need not be read again
        return max(open_, key=lambda c: (c.head.kind == "conv", -len(c.posts), c.slot))

    def _need(self, slot: int, rows: bool) -> None:
        """Make sure that a native tensor holds the value of a slot."""
        if slot in self._open:
            self._close(slot)
        if slot in self._ids:
            if rows != (slot in self._rows):
                raise UnplannableError("a value is read both as an image and as rows")
            return
        # from outside: the frame itself, or what torch computed
        shape = self._shapes[slot]
        if shape is None or (len(shape) != 4 and not rows):
            raise UnplannableError(f"a value of shape {shape} enters as an image")
        if rows:
            self._rows.add(slot)
        self._ids[slot] = self._add_tensor(slot, half=False)
        index = self._emit(self._step_type("import", [], self._ids[slot]), "import")
        self._items.insert(len(self._items) - 1, Import(slot, index, rows))

    def _add_tensor(self, slot: int, half: bool) -> int:
        n, c, h, w = self._pixels(slot)
        return int(self._program.add_tensor(n, h, w, c, half))

    def _pixels(self, slot: int) -> tuple[int, int, int, int]:
        shape = self._shape(slot)
        if slot in self._rows and len(shape) == 4:
            return shape[0], shape[3], shape[1], shape[2]
        if slot in self._rows:
            return 1, shape[-1], 1, math.prod(shape[:-1])
        n, c, h, w = shape
        return n, c, h, w

    def _emit(self, step: Any, name: str) -> int:
        index = int(self._program.add_step(step))
        self._step_names.append(name)
        last = self._items[-1] if self._items else None
        if isinstance(last, NativeRun) and last.last == index:
            self._items[-1] = NativeRun(last.first, index + 1)
        else:
            self._items.append(NativeRun(index, index + 1))
        return index

    def _close(self, slot: int) -> None:
        """Turn a chain into a step."""
        chain = self._open.pop(slot)
        out = self._ids[slot] = self._add_tensor(slot, _ends_half(chain.posts))
        head = chain.head
        inputs = [self._ids[s] for s in head.inputs]
        if head.kind == "conv":
            assert head.call.op is not None
            layer = self._add_layer(head.call.op, inputs[0], head)
            step = self._step_type("conv", [], out, layer)
        else:
            step = self._step_type(head.kind, inputs, out)
            if "resize" in head.options:
                step.resize(*head.options["resize"])
            if "window" in head.options:
                step.window(*head.options["window"])
        kept = False
        for i, (node, other) in enumerate(zip(chain.posts, chain.others, strict=True)):
            if node.kind == "add":
                assert other is not None
                if head.kind == "conv" and not kept:
                    step.keep_raw(self._add_tensor(slot, _ends_half(chain.posts[:i])))
                    kept = True
                step.add(self._ids[other])
            elif node.kind == "relu":
                step.relu()
            elif node.kind == "half":
                step.half()
            elif node.kind == "clamp":
                step.clamp(*node.options["bounds"])
            else:
                step.affine(*node.options["terms"])
        self._emit(step, head.call.op.name if head.call.op is not None else head.kind)

    # ---- torch

    def _torch(self, call: Call) -> None:
        reads = []
        for slot in slots_in((call.args, call.kwargs)):
            if slot in self._open:
                self._close(slot)
            if slot in self._ids:
                reads.append(slot)
                self._expose(slot)
        self._items.append(TorchCall(call, tuple(reads)))
        if call.target not in _FREE:
            self._foreign.append(str(call.target))

    def _expose(self, slot: int) -> None:
        self._exposed.add(slot)
        self._program.mark_read(self._ids[slot])

    # ---- layers

    def _add_layer(self, op: LinearOp, tensor: int, node: _Node) -> int:
        layer = self._layers[op.name]
        _, _, h, w = self._pixels(node.inputs[0])
        _, c, out_h, out_w = self._pixels(node.call.slot)
        geometry = _geometry(op, (h, w), (out_h, out_w))
        program = self._program
        low, high = layer.frame_range
        index = int(
            program.add_layer(
                tensor=tensor,
                out=(out_h, out_w, c),
                padding=geometry.padding,
                frame=(
                    1.0 / layer.frame_scale if layer.frame_bits else 0.0,
                    low,
                    high,
                    layer.frame_step,
                    layer.frame_bits,
                ),
                planes=[p.scale for p in layer.planes],
                pool=[_pool_entry(e) for e in layer.pool],
                quiet=_quiet(layer),
                fresh=layer.frame_scale * 0.4999,
                weight_norm=0.0 if layer.residual_weight is None else layer.residual_weight.norm,
                macs=float(self._graph.macs[op.name]),
                image=op.kind is not Kind.LINEAR or len(self._shape(node.inputs[0])) == 4,
                phases=[p.to_tuple() for p in geometry.phases],
            )
        )
        bias = None if op.bias is None else op.bias.detach().numpy()
        for plane, p in enumerate(layer.planes):
            codes = p.weight.codes.to(torch.int8).numpy()
            multiplier = np.ascontiguousarray(
                np.broadcast_to(p.multiplier.numpy(), (c,)), dtype=np.float32
            )
            if _is_depthwise(op):
                taps = codes.reshape(c, 1, -1).transpose(2, 1, 0)
                program.add_depthwise(index, np.ascontiguousarray(taps), multiplier, bias)
                continue
            for i, phase in enumerate(geometry.phases):
                for group in range(op.groups):
                    weights = _phase_weights(op, codes, phase, group)
                    program.add_block(index, i, plane, group, op.groups, weights, multiplier, bias)
        self._layer_names.append(op.name)
        return index


def _ends_half(posts: Sequence[_Node]) -> bool:
    return bool(posts) and posts[-1].kind == "half"


def _is_linear(node: _Node) -> bool:
    return node.call.op is not None and node.call.op.kind is Kind.LINEAR


def _countable(op: LinearOp, shape: tuple[int, ...]) -> bool:
    return len(shape) >= 1 if op.kind is Kind.LINEAR else len(shape) == 4


def _is_depthwise(op: LinearOp) -> bool:
    return op.kind is Kind.CONV2D and op.weight.shape[1] == 1 and op.groups == op.weight.shape[0]


def _pool_entry(entry: Any) -> tuple[float, float, float, float, float, int, int]:
    low, high = code_range(entry.bits)
    inverse = 1.0 / entry.scale if entry.bits else 0.0
    return entry.scale, inverse, low, high, entry.step, entry.bits, entry.plane


def _quiet(layer: LayerQuantizers) -> float:
    """|δ| up to which no code can be other than zero."""
    scales = [entry.scale for entry in layer.pool if entry.bits]
    if not scales:
        return math.inf
    if len(layer.pool) > 1:
        return min(scales) * 0.5
    return scales[0] * 0.4999  # whether a code is zero at a tie is the quantizer's to say


# ---- geometry


@dataclass(frozen=True, slots=True)
class _Phase:
    """Output pixels (j·out + first) read around input pixels (j·in_), at taps of the kernel."""

    out: tuple[int, int]
    first: tuple[int, int]
    in_: tuple[int, int]
    taps: tuple[tuple[int, ...], tuple[int, ...]]  # offsets in the padded plane, by axis
    kernel: tuple[tuple[int, ...], tuple[int, ...]]  # which kernel rows and columns they are

    def to_tuple(self) -> tuple[int, int, int, int, int, int, list[int], list[int]]:
        (oy, ox), (fy, fx), (iy, ix) = self.out, self.first, self.in_
        return oy, ox, fy, fx, iy, ix, list(self.taps[0]), list(self.taps[1])


@dataclass(frozen=True, slots=True)
class _Geometry:
    padding: tuple[int, int, int, int]  # top, left, padded height, padded width
    phases: tuple[_Phase, ...]


def _geometry(op: LinearOp, size: tuple[int, int], out: tuple[int, int]) -> _Geometry:
    if op.kind is Kind.LINEAR:
        whole = _Phase((1, 1), (0, 0), (1, 1), ((0,), (0,)), ((0,), (0,)))
        return _Geometry((0, 0, *size), (whole,))
    kernel = op.weight.shape[2], op.weight.shape[3]
    if op.kind is Kind.CONV2D:
        pads = [_pad_before(op, axis, kernel[axis]) for axis in (0, 1)]
        taps = [tuple(k * op.dilation[a] for k in range(kernel[a])) for a in (0, 1)]
        padded = [
            max(pads[a] + size[a], (out[a] - 1) * op.stride[a] + taps[a][-1] + 1) for a in (0, 1)
        ]
        whole = _Phase(
            (1, 1),
            (0, 0),
            (op.stride[0], op.stride[1]),
            (taps[0], taps[1]),
            (tuple(range(kernel[0])), tuple(range(kernel[1]))),
        )
        return _Geometry((pads[0], pads[1], padded[0], padded[1]), (whole,))
    return _transposed(op, size, out, (kernel[0], kernel[1]))


def _pad_before(op: LinearOp, axis: int, kernel: int) -> int:
    if op.padding == "valid":
        return 0
    if op.padding == "same":
        return op.dilation[axis] * (kernel - 1) // 2
    return int(op.padding[axis])


def _transposed(
    op: LinearOp, size: tuple[int, int], out: tuple[int, int], kernel: tuple[int, int]
) -> _Geometry:
    """Each residue of an output coordinate modulo the stride is a convolution of its own.

    Output y takes input i through kernel row k where y = i·stride + k·dilation − padding.
    """
    by_axis: list[list[tuple[int, list[int], list[int]]]] = []
    for a in (0, 1):
        phases: list[tuple[int, list[int], list[int]]] = []
        for first in range(min(op.stride[a], out[a])):
            ks, offsets = [], []
            for k in range(kernel[a]):
                reach = first + int(op.padding[a]) - k * op.dilation[a]
                if reach % op.stride[a] == 0:
                    ks.append(k)
                    offsets.append(reach // op.stride[a])
            phases.append((first, ks, offsets))
        by_axis.append(phases)
    before, padded = [], []
    for a in (0, 1):
        all_offsets = [o for _, _, offsets in by_axis[a] for o in offsets]
        before.append(max(0, -min(all_offsets, default=0)))
        steps = -(-out[a] // op.stride[a])
        padded.append(before[a] + max(size[a], steps + max(0, *all_offsets, 0)))
    made = [
        _Phase(
            (op.stride[0], op.stride[1]),
            (fy, fx),
            (1, 1),
            (tuple(o + before[0] for o in oy), tuple(o + before[1] for o in ox)),
            (tuple(ky), tuple(kx)),
        )
        for fy, ky, oy in by_axis[0]
        for fx, kx, ox in by_axis[1]
    ]
    return _Geometry((before[0], before[1], padded[0], padded[1]), tuple(made))


def _phase_weights(op: LinearOp, codes: Any, phase: _Phase, group: int) -> Any:
    """int8 [taps, input channels of the group, output channels of the group]."""
    if op.kind is Kind.LINEAR:
        return np.ascontiguousarray(codes.T[None])
    if op.kind is Kind.CONV2D:
        size = codes.shape[0] // op.groups
        part = codes[group * size : (group + 1) * size].transpose(2, 3, 1, 0)
    else:
        size = codes.shape[0] // op.groups
        part = codes[group * size : (group + 1) * size].transpose(2, 3, 0, 1)
    ky, kx = phase.kernel
    part = part[list(ky)][:, list(kx)]
    return np.ascontiguousarray(part.reshape(-1, part.shape[2], part.shape[3]))


# ---- ops that a program knows

_Made = tuple[str, tuple[int, ...], dict[str, Any]]
_Shapes = Sequence[tuple[int, ...] | None]


def _image(ref: Any, shapes: _Shapes) -> bool:
    shape = shapes[ref.slot] if isinstance(ref, Ref) else None
    return shape is not None and len(shape) == 4


def _argument(call: Call, index: int, name: str, default: Any) -> Any:
    if len(call.args) > index:
        return call.args[index]
    return call.kwargs.get(name, default)


def _relu(call: Call, shapes: _Shapes) -> _Made | None:
    return ("relu", (call.args[0].slot,), {}) if _image(call.args[0], shapes) else None


def _half(call: Call, shapes: _Shapes) -> _Made | None:
    return ("half", (call.args[0].slot,), {}) if _image(call.args[0], shapes) else None


def _hardtanh(call: Call, shapes: _Shapes) -> _Made | None:
    low, high = _argument(call, 1, "min_val", -1.0), _argument(call, 2, "max_val", 1.0)
    return _bounded(call, low, high, shapes)


def _clamp(call: Call, shapes: _Shapes) -> _Made | None:
    return _bounded(call, _argument(call, 1, "min", None), _argument(call, 2, "max", None), shapes)


def _bounded(call: Call, low: Any, high: Any, shapes: _Shapes) -> _Made | None:
    if not _image(call.args[0], shapes) or isinstance(low, Ref) or isinstance(high, Ref):
        return None
    bounds = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return "clamp", (call.args[0].slot,), {"bounds": bounds}


def _add(call: Call, shapes: _Shapes) -> _Made | None:
    a, b = call.args[:2]
    if not (_image(a, shapes) and _image(b, shapes)) or call.kwargs.get("alpha", 1) != 1:
        return None
    if shapes[a.slot] != shapes[b.slot]:
        return None
    return "add", (a.slot, b.slot), {}


def _affine(call: Call, shapes: _Shapes) -> _Made | None:
    x, scale, shift = call.args
    if not _image(x, shapes) or isinstance(scale, Ref) or isinstance(shift, Ref):
        return None
    terms = scale.contiguous().numpy(), shift.contiguous().numpy()
    return "affine", (x.slot,), {"terms": terms}


def _cat(call: Call, shapes: _Shapes) -> _Made | None:
    parts, dim = call.args[0], _argument(call, 1, "dim", 0)
    if not all(_image(p, shapes) for p in parts) or dim % 4 != 1:
        return None
    return "concat", tuple(p.slot for p in parts), {}


def _bilinear(call: Call, shapes: _Shapes) -> _Made | None:
    x, _size, align, factors = (*call.args, *[None] * 4)[:4]
    if not _image(x, shapes):
        return None
    source, target = shapes[x.slot], shapes[call.slot]
    assert source is not None
    assert target is not None
    tables: list[Any] = []
    for axis in (0, 1):
        factor = None if factors is None else factors[axis]
        tables += _bilinear_table(source[2 + axis], target[2 + axis], bool(align), factor)
    return "bilinear", (x.slot,), {"resize": tables}


def _bilinear_table(size: int, out: int, align: bool, factor: float | None) -> list[Any]:
    """Source indices and weights along one axis, in float32 as torch computes them."""
    one, half = np.float32(1), np.float32(0.5)
    place = np.arange(out, dtype=np.float32)
    if align:
        scale = np.float32(size - 1) / np.float32(out - 1) if out > 1 else np.float32(0)
        source = place * scale
    else:
        scale = np.float32(1.0 / factor) if factor else np.float32(size) / np.float32(out)
        source = np.maximum(scale * (place + half) - half, np.float32(0))
    first = np.minimum(source.astype(np.int64), size - 1)
    second = first + (first < size - 1)
    weight = np.clip(source - first.astype(np.float32), np.float32(0), one)
    return [first.tolist(), second.tolist(), (one - weight).tolist(), weight.tolist()]


def _nearest(call: Call, shapes: _Shapes) -> _Made | None:
    x, _size, factors = (*call.args, *[None] * 3)[:3]
    if not _image(x, shapes):
        return None
    source, target = shapes[x.slot], shapes[call.slot]
    assert source is not None
    assert target is not None
    tables: list[Any] = []
    for axis in (0, 1):
        size, out = source[2 + axis], target[2 + axis]
        factor = None if factors is None else factors[axis]
        scale = np.float32(1.0 / factor) if factor else np.float32(size) / np.float32(out)
        place = np.floor(np.arange(out, dtype=np.float32) * scale).astype(np.int64)
        index = np.minimum(place, size - 1).tolist()
        tables += [index, index, [], []]
    return "nearest", (x.slot,), {"resize": tables}


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return int(values[0]), int(values[-1])


def _average_pool(call: Call, shapes: _Shapes) -> _Made | None:
    x, kernel = call.args[:2]
    stride = _argument(call, 2, "stride", None) or kernel
    padding = _argument(call, 3, "padding", 0)
    ceil, count = (
        _argument(call, 4, "ceil_mode", False),
        _argument(call, 5, "count_include_pad", True),
    )
    divisor = _argument(call, 6, "divisor_override", None)
    if not _image(x, shapes) or ceil or divisor is not None:
        return None
    window = (_pair(kernel), _pair(stride), _pair(padding), bool(count))
    return "average", (x.slot,), {"window": window}


def _max_pool(call: Call, shapes: _Shapes) -> _Made | None:
    x, kernel = call.args[:2]
    stride = _argument(call, 2, "stride", None) or kernel
    padding = _argument(call, 3, "padding", 0)
    dilation = _pair(_argument(call, 4, "dilation", 1))
    if not _image(x, shapes) or dilation != (1, 1) or _argument(call, 5, "ceil_mode", False):
        return None
    return "maximum", (x.slot,), {"window": (_pair(kernel), _pair(stride), _pair(padding), False)}


def _mean_pool(call: Call, shapes: _Shapes) -> _Made | None:
    x, size = call.args[:2]
    if not _image(x, shapes) or _pair(size) != (1, 1):
        return None
    return "mean", (x.slot,), {}


_NATIVE: dict[Any, Callable[[Call, _Shapes], _Made | None]] = {
    _aten.relu.default: _relu,
    round_to_half: _half,
    _aten.hardtanh.default: _hardtanh,
    _aten.relu6.default: lambda call, shapes: _bounded(call, 0.0, 6.0, shapes),
    _aten.clamp.default: _clamp,
    _aten.clamp_min.default: lambda call, shapes: _bounded(call, call.args[1], None, shapes),
    _aten.add.Tensor: _add,
    affine: _affine,
    _aten.cat.default: _cat,
    _aten.upsample_bilinear2d.vec: _bilinear,
    _aten.upsample_nearest2d.vec: _nearest,
    _aten.avg_pool2d.default: _average_pool,
    _aten.max_pool2d.default: _max_pool,
    _aten.adaptive_avg_pool2d.default: _mean_pool,
}

_FREE = {
    _aten.view.default,
    _aten.permute.default,
    _aten.transpose.int,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
}
"""Views, which cost nothing and are not worth a warning."""
