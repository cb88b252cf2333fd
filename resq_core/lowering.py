"""Lowering: an exported program → a `Graph`.

Everything that does not depend on the input is computed once. Batch norm that follows a layer,
and only it, is folded; every other op stays a float op and runs as torch runs it.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node
from torch.utils import _pytree as pytree

from resq_core.errors import CaptureError
from resq_core.graph import Call, Graph, Ref, with_frees
from resq_core.linear_op import LinearOp
from resq_core.matching import Match, fold_batch_norm, match_layer

__all__ = ["affine", "lower"]

_aten = torch.ops.aten
_BATCH_NORM = _aten._native_batch_norm_legit_no_training.default


def lower(
    program: ExportedProgram, shapes: tuple[tuple[int, ...], ...], attached: bool = False
) -> Graph:
    """Turn an exported program, decomposed and without side effects, into a graph.

    Args:
        program: of a module in eval mode.
        shapes: of its inputs.
        attached: keep the graph's weights functions of the program's parameters, batch norm's
            included, so that gradients reach them.

    Raises:
        CaptureError: the program branches on data, or returns nothing.
    """
    return _Lowering(program, shapes, attached).graph()


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Batch norm that stands alone: x·scale + shift by channel, dimension 1.

    Spelt out as a product and a sum, which every executor rounds alike.
    """
    shape = (1, -1, *[1] * (x.ndim - 2))
    return x * scale.view(shape) + shift.view(shape)


class _Lowering:
    """One pass over an exported graph: constants folded, batch norm folded, layers named."""

    def __init__(
        self, program: ExportedProgram, shapes: tuple[tuple[int, ...], ...], attached: bool
    ) -> None:
        self._program = program
        self._shapes = shapes
        self._attached = attached
        self._values: dict[Node, Any] = {}
        self._names: dict[Node, str] = {}
        self._learned: dict[Node, str] = {}  # constants that come from a parameter, and which
        self._calls: list[Call] = []
        self._ops: list[LinearOp] = []
        self._macs: dict[str, int] = {}
        self._n_slots = 0
        self._seen: dict[str, int] = {}

    def graph(self) -> Graph:
        self._bind_placeholders()
        outputs: tuple[Any, ...] = ()
        for node in _live_nodes(self._program.graph):
            if isinstance(node.target, HigherOrderOperator):
                raise CaptureError(_explain_branch(node))
            if node.op == "call_function":
                self._lower(node)
            elif node.op == "output":
                results: Any = node.args[0]
                kinds = [spec.kind for spec in self._program.graph_signature.output_specs]
                # a network that writes into its input returns that too, for torch's own use
                outputs = self._map(
                    tuple(
                        result
                        for result, kind in zip(results, kinds, strict=True)
                        if kind is OutputKind.USER_OUTPUT
                    )
                )
        out_spec = self._program.call_spec.out_spec
        if out_spec is None:
            raise CaptureError("the model returns nothing; expected at least one tensor")
        calls = with_frees(self._calls, outputs, len(self._shapes))
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
            loose = isinstance(value, Tensor) and not self._attached
            self._values[node] = value.detach() if loose else value
            self._names[node] = target
            if spec.kind is InputKind.PARAMETER:
                self._learned[node] = target

    def _new_slot(self) -> Ref:
        self._n_slots += 1
        return Ref(self._n_slots - 1)

    def _map(self, value: Any) -> Any:
        return pytree.tree_map_only(Node, lambda n: self._values[n], value)

    def _lower(self, node: Node) -> None:
        if node in self._values:  # the rest of a batch norm that was folded
            return
        args, kwargs = self._map(node.args), self._map(node.kwargs)
        if node.target is _BATCH_NORM:
            self._lower_batch_norm(node, args)
            return
        if not _reads_input(args) and not _reads_input(kwargs) and not _is_random(node.target):
            self._fold_constant(node, args, kwargs)
            return
        match = self._match(node, args, kwargs)
        if match is not None:
            self._lower_layer(node, args[match.x], match)
            return
        self._values[node] = self._emit(node.target, args, kwargs)

    def _fold_constant(self, node: Node, args: Any, kwargs: dict[str, Any]) -> None:
        target: Any = node.target
        self._values[node] = target(*args, **kwargs)
        sources = [self._learned[n] for n in node.all_input_nodes if n in self._learned]
        if sources:
            self._learned[node] = sources[0]

    def _match(self, node: Node, args: Any, kwargs: dict[str, Any]) -> Match | None:
        shapes = tuple(_shape(a) for a in node.args)
        learned = tuple(isinstance(a, Node) and a in self._learned for a in node.args)
        match = match_layer(node.target, args, kwargs, shapes, learned)
        if match is None or not isinstance(args[match.x], Ref):
            return None
        # a stream's state has the input's shape, so a layer whose input grows and shrinks with
        # what is in the picture is not quantized
        fixed = _is_fixed(shapes[match.x]) and _is_fixed(_shape(node))
        return match if fixed and _is_float32(node.args[match.x]) else None

    def _emit(
        self, target: Any, args: Any, kwargs: dict[str, Any], op: LinearOp | None = None
    ) -> Ref:
        ref = self._new_slot()
        self._calls.append(Call(ref.slot, target, tuple(args), dict(kwargs), op, ()))
        return ref

    def _lower_batch_norm(self, node: Node, args: tuple[Any, ...]) -> None:
        x, weight, bias, mean, var, _momentum, eps = args
        scale = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
        shift = -mean * scale if bias is None else bias - mean * scale
        ref = self._emit(affine, (x, scale, shift), {})
        self._values[node] = ref
        for user in node.users:
            if user.target is operator.getitem:
                self._values[user] = ref

    def _lower_layer(self, node: Node, x: Ref, match: Match) -> None:
        op = replace(match.op, name=self._layer_name(node, match))
        norm = _only_batch_norm(node, match)
        if norm is not None:
            op = fold_batch_norm(op, self._map(tuple(norm.args[1:])))
        for view, args in match.before:
            x = self._emit(view, (x, *args), {})
        ref = self._emit(op.apply, (x,), {}, op)
        for view, args in match.after:
            ref = self._emit(view, (ref, *args), {})
        self._values[node] = ref
        if norm is not None:
            self._values[norm] = ref
            for user in norm.users:
                self._values[user] = ref
        in_shape, out_shape = _shape(node.args[match.x]), _shape(node)
        assert in_shape is not None
        assert out_shape is not None
        self._ops.append(op)
        self._macs[op.name] = op.macs(in_shape, out_shape)

    def _layer_name(self, node: Node, match: Match) -> str:
        """The weight's own name; else the module's; else where a derived weight comes from."""
        weight = node.args[match.weight]
        name = source = ""
        if isinstance(weight, Node):
            name, source = self._names.get(weight, ""), self._learned.get(weight, "")
        if name:
            name = name.removesuffix(".weight").removesuffix("_weight")
        else:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            name = (stack[-1][0] if stack else "") or source or str(node.name)
        self._seen[name] = self._seen.get(name, 0) + 1
        return name if self._seen[name] == 1 else f"{name}#{self._seen[name]}"


def _explain_branch(node: Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else kind.__name__
    return (
        f"the model has control flow that depends on data: {node.target} in "
        f"{path or 'the model itself'} ({kind.rpartition('.')[2]}); "
        "expected one graph of tensor ops for a given input shape"
    )


def _live_nodes(graph: torch.fx.Graph) -> list[Node]:
    """Nodes that the output depends on, in order; the graph is functional, so the rest is dead."""
    live: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in live:
            live.add(node)
            live.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in live]


def _reads_input(value: Any) -> bool:
    return any(isinstance(leaf, Ref) for leaf in pytree.tree_leaves(value))


def _is_random(target: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def _only_batch_norm(node: Node, match: Match) -> Node | None:
    """The batch norm that is the only reader of a layer's output, if it can be folded back."""
    users = list(node.users)
    if len(users) != 1 or users[0].target is not _BATCH_NORM:
        return None
    shape = _shape(node)
    # batch norm's channels are dimension 1, which must be the layer's outputs
    return users[0] if shape is not None and len(shape) == match.norm_rank else None


def _shape(value: Any) -> torch.Size | None:
    """The shape of a node's tensor as traced, or None for what is no tensor."""
    traced = value.meta.get("val") if isinstance(value, Node) else None
    return traced.shape if isinstance(traced, Tensor) else None


def _is_fixed(shape: torch.Size | None) -> bool:
    return shape is not None and all(isinstance(n, int) for n in shape)


def _is_float32(value: Any) -> bool:
    traced = value.meta.get("val") if isinstance(value, Node) else None
    return isinstance(traced, Tensor) and traced.dtype == torch.float32
