"""Capture: any `nn.Module` → a functional graph whose linear layers are visible.

`torch.export` traces the module as it is, without an edit; its functionalization turns in-place
ops into pure ones, so nothing can write into a cached tensor. Batch norm that follows a
convolution, and only it, is folded; every other op stays a float op and runs as torch runs it.
The graph keeps no state: all that changes from frame to frame lives in `StreamState`.
See docs/capture.md for what was compared.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.utils import _pytree as pytree

from resq_core.errors import CaptureError
from resq_core.linear_op import Kind, LinearOp

__all__ = ["Graph", "capture"]

_aten = torch.ops.aten
_BATCH_NORM = _aten._native_batch_norm_legit_no_training.default
_RUN_LINEAR = Callable[[LinearOp, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Ref:
    """A value computed at run time."""

    slot: int


@dataclass(frozen=True, slots=True)
class _Call:
    """One op: where its result goes, what it calls, and which values die after it."""

    slot: int
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    op: LinearOp | None
    frees: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured network for fixed input shapes.

    Attributes:
        ops: the quantizable layers in execution order.
        macs: multiply-accumulates per layer name for these shapes.
        input_shapes: the shapes it was captured for.
    """

    calls: tuple[_Call, ...]
    n_slots: int
    outputs: tuple[Any, ...]
    out_spec: pytree.TreeSpec
    ops: tuple[LinearOp, ...]
    macs: dict[str, int]
    input_shapes: tuple[tuple[int, ...], ...]

    def run(self, inputs: Sequence[Tensor], linear: _RUN_LINEAR) -> Any:
        """Execute once; `linear(op, x)` computes every quantizable layer.

        Args:
            inputs: tensors of `input_shapes`.
            linear: returns the layer's output for input `x`, bias included.

        Returns:
            What the module returns: a tensor, or the same nest of tensors.
        """
        env: list[Any] = [None] * self.n_slots
        env[: len(inputs)] = inputs
        for call in self.calls:
            if call.op is not None:
                env[call.slot] = linear(call.op, _resolve(call.args[0], env))
            else:
                env[call.slot] = call.target(
                    *_resolve(call.args, env), **_resolve(call.kwargs, env)
                )
            for slot in call.frees:
                env[slot] = None
        return pytree.tree_unflatten(list(_resolve(self.outputs, env)), self.out_spec)


def _resolve(value: Any, env: list[Any]) -> Any:
    if isinstance(value, _Ref):
        return env[value.slot]
    if isinstance(value, (tuple, list)):
        return type(value)([_resolve(v, env) for v in value])
    if isinstance(value, dict):
        return {k: _resolve(v, env) for k, v in value.items()}
    return value


def capture(module: nn.Module, inputs: Sequence[Tensor]) -> Graph:
    """Capture a module in eval mode for inputs of the given shapes.

    Args:
        module: any module that `torch.export` can trace; it is not changed.
        inputs: example inputs, float32; only shapes, dtypes and devices matter.

    Raises:
        CaptureError: naming the submodule and the reason.
    """
    shapes = tuple(tuple(x.shape) for x in inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(module, tuple(inputs), strict=False)
            program = program.run_decompositions({})
        except Exception as error:
            raise CaptureError(_explain(module, shapes, error)) from error
        _refuse_side_effects(program)
        return _Lowering(program, shapes).graph()


def _explain(module: nn.Module, shapes: tuple[tuple[int, ...], ...], error: Exception) -> str:
    """Name the innermost submodule that was running, and the first line of the reason."""
    names = {id(m): n for n, m in module.named_modules()}
    where = f"{type(module).__name__}"
    traceback = error.__traceback__
    while traceback is not None:
        code, variables = traceback.tb_frame.f_code, traceback.tb_frame.f_locals
        owner = variables.get(code.co_varnames[0]) if code.co_varnames else None
        if isinstance(owner, nn.Module) and id(owner) in names and code.co_name == "forward":
            label = names[id(owner)] or "the model itself"
            where = f"{label} ({type(owner).__name__}, {code.co_filename}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (
        f"cannot capture {type(module).__name__} for input shapes {[list(s) for s in shapes]}: "
        f"in {where}: {type(error).__name__}: {reason[:300]}"
    )


def _refuse_side_effects(program: ExportedProgram) -> None:
    mutated = program.graph_signature.buffers_to_mutate
    if mutated:
        names = sorted(set(mutated.values()))
        raise CaptureError(
            f"the model writes to its own buffers {names[:5]} while it runs; expected a model "
            "without state in eval mode (ResQ keeps a stream's state outside the model)"
        )


class _Lowering:
    """One pass over an exported graph: constants folded, batch norm folded, layers named."""

    def __init__(self, program: ExportedProgram, shapes: tuple[tuple[int, ...], ...]) -> None:
        self._program = program
        self._shapes = shapes
        self._values: dict[Node, Any] = {}
        self._names: dict[Node, str] = {}
        self._calls: list[_Call] = []
        self._ops: list[LinearOp] = []
        self._macs: dict[str, int] = {}
        self._n_slots = 0
        self._seen: dict[str, int] = {}

    def graph(self) -> Graph:
        self._bind_placeholders()
        outputs: tuple[Any, ...] = ()
        for node in _live_nodes(self._program.graph):
            if node.op == "call_function":
                self._lower(node)
            elif node.op == "output":
                results: Any = node.args[0]
                outputs = self._map(tuple(results))
            elif node.op != "placeholder":
                raise CaptureError(
                    f"the model has control flow that depends on data ({node.op} {node.target}); "
                    "expected one graph of tensor ops for a given input shape"
                )
        out_spec = self._program.call_spec.out_spec
        if out_spec is None:
            raise CaptureError("the model returns nothing; expected at least one tensor")
        calls = _with_frees(self._calls, outputs, len(self._shapes))
        return Graph(
            calls, self._n_slots, outputs, out_spec, tuple(self._ops), self._macs, self._shapes
        )

    def _bind_placeholders(self) -> None:
        state, constants = self._program.state_dict, self._program.constants
        specs = {s.arg.name: s for s in self._program.graph_signature.input_specs}
        for node in self._program.graph.nodes:
            if node.op != "placeholder":
                continue
            spec = specs[node.name]
            if spec.kind is InputKind.USER_INPUT:
                self._values[node] = self._new_slot()
                continue
            target = spec.target or ""
            value = state[target] if target in state else constants[target]
            self._values[node] = value.detach() if isinstance(value, Tensor) else value
            self._names[node] = target

    def _new_slot(self) -> _Ref:
        self._n_slots += 1
        return _Ref(self._n_slots - 1)

    def _map(self, value: Any) -> Any:
        return pytree.tree_map_only(Node, lambda n: self._values[n], value)

    def _lower(self, node: Node) -> None:
        if node in self._values:  # the rest of a batch norm that was folded
            return
        args, kwargs = self._map(node.args), self._map(node.kwargs)
        if node.target is _BATCH_NORM:
            self._lower_batch_norm(node, args)
            return
        op = _linear_op(node.target, args)
        if op is not None and isinstance(args[0], _Ref):
            self._lower_linear(node, args[0], op)
            return
        target: Any = node.target
        if not _reads_input(args) and not _reads_input(kwargs) and not _is_random(target):
            self._values[node] = target(*args, **kwargs)
            return
        self._emit(node, target, args, kwargs, None)

    def _emit(
        self, node: Node, target: Any, args: Any, kwargs: dict[str, Any], op: LinearOp | None
    ) -> _Ref:
        ref = self._new_slot()
        self._values[node] = ref
        self._calls.append(_Call(ref.slot, target, tuple(args), dict(kwargs), op, ()))
        return ref

    def _lower_batch_norm(self, node: Node, args: tuple[Any, ...]) -> None:
        x, weight, bias, mean, var, _momentum, eps = args
        parameters = (weight, bias, mean, var, False, 0.0, eps, False)
        ref = self._emit(node, _aten.batch_norm.default, (x, *parameters), {}, None)
        for user in node.users:
            if user.target is operator.getitem:
                self._values[user] = ref

    def _lower_linear(self, node: Node, x: _Ref, op: LinearOp) -> None:
        op = replace(op, name=self._layer_name(node))
        norm = _only_batch_norm(node, op)
        if norm is not None:
            op = _fold(op, self._map(tuple(norm.args[1:])))
        ref = self._emit(node, op.apply, (x,), {}, op)
        if norm is not None:
            self._values[norm] = ref
            for user in norm.users:
                self._values[user] = ref
        source = node.args[0]
        assert isinstance(source, Node)
        self._ops.append(op)
        self._macs[op.name] = op.macs(source.meta["val"].shape, node.meta["val"].shape)

    def _layer_name(self, node: Node) -> str:
        weight = node.args[1]
        name = self._names.get(weight, "") if isinstance(weight, Node) else ""
        if name:
            name = name.removesuffix(".weight").removesuffix("_weight")
        else:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            name = stack[-1][0] if stack and stack[-1][0] else str(node.name)
        self._seen[name] = self._seen.get(name, 0) + 1
        return name if self._seen[name] == 1 else f"{name}#{self._seen[name]}"


def _live_nodes(graph: torch.fx.Graph) -> list[Node]:
    """Nodes that the output depends on, in order; the graph is functional, so the rest is dead."""
    live: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in live:
            live.add(node)
            live.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in live]


def _reads_input(value: Any) -> bool:
    return any(isinstance(leaf, _Ref) for leaf in pytree.tree_leaves(value))


def _is_random(target: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def _pair(value: Any) -> tuple[int, int]:
    items = [value] if isinstance(value, int) else list(value)
    return (items[0], items[0]) if len(items) == 1 else (items[0], items[1])


def _linear_op(target: Any, args: tuple[Any, ...]) -> LinearOp | None:
    """The layer that a call stands for, or None if it is another op or its weight varies."""
    if len(args) < 2 or not isinstance(args[1], Tensor):
        return None
    weight = args[1].float()
    bias = args[2] if len(args) > 2 else None
    if bias is not None and not isinstance(bias, Tensor):
        return None
    rest = args[3:]
    if target is _aten.linear.default and weight.ndim == 2:
        return LinearOp("", Kind.LINEAR, weight, bias)
    if target in (_aten.conv2d.default, _aten.conv2d.padding):
        defaults: tuple[Any, ...] = (1, 0, 1, 1)
        stride, padding, dilation, groups = rest + defaults[len(rest) :]
        pad = padding if isinstance(padding, str) else _pair(padding)
        return LinearOp(
            "", Kind.CONV2D, weight, bias, _pair(stride), pad, (0, 0), _pair(dilation), groups
        )
    if target is _aten.conv_transpose2d.input:
        defaults = (1, 0, 0, 1, 1)
        stride, padding, output_padding, groups, dilation = rest + defaults[len(rest) :]
        return LinearOp(
            "",
            Kind.CONV_TRANSPOSE2D,
            weight,
            bias,
            _pair(stride),
            _pair(padding),
            _pair(output_padding),
            _pair(dilation),
            groups,
        )
    return None


def _only_batch_norm(node: Node, op: LinearOp) -> Node | None:
    """The batch norm that is the only reader of a layer's output, if it can be folded back."""
    users = list(node.users)
    if len(users) != 1 or users[0].target is not _BATCH_NORM:
        return None
    if op.kind is Kind.LINEAR and node.meta["val"].ndim != 2:
        return None  # its channels are not the linear layer's outputs
    return users[0]


def _fold(op: LinearOp, norm: tuple[Any, ...]) -> LinearOp:
    """w·γ/√(σ²+ε) and (b − μ)·γ/√(σ²+ε) + β, in float64, rounded once."""
    gamma, beta, mean, var, _momentum, eps = norm
    factor = (var.double() + eps).rsqrt()
    if gamma is not None:
        factor = factor * gamma.double()
    bias = -mean.double() if op.bias is None else op.bias.double() - mean.double()
    bias = bias * factor
    if beta is not None:
        bias = bias + beta.double()
    weight = op.weight.double() * op.channels_to_weight(factor)
    return replace(op, weight=weight.float(), bias=bias.float())


def _with_frees(calls: list[_Call], outputs: tuple[Any, ...], n_inputs: int) -> tuple[_Call, ...]:
    """Note with each call the values that nothing reads after it."""
    kept = {leaf.slot for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, _Ref)}
    kept.update(range(n_inputs))
    result: list[_Call] = []
    for call in reversed(calls):
        read = {
            leaf.slot
            for leaf in pytree.tree_leaves((call.args, call.kwargs))
            if isinstance(leaf, _Ref)
        }
        result.append(replace(call, frees=tuple(sorted((read | {call.slot}) - kept - {call.slot}))))
        kept |= read
    return tuple(reversed(result))
