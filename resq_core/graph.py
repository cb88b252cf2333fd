"""A captured network: a list of calls for fixed input shapes, and how it runs.

The graph keeps no state: all that changes from frame to frame lives in `StreamState`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from resq_core.linear_op import LinearOp

__all__ = ["Call", "Graph", "Ref", "RunLinear", "resolve", "slots_in", "with_frees"]

RunLinear = Callable[[LinearOp, Tensor], Tensor]
"""Computes a layer's output, bias included."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A value computed at run time."""

    slot: int


@dataclass(frozen=True, slots=True)
class Call:
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

    calls: tuple[Call, ...]
    n_slots: int
    outputs: tuple[Any, ...]
    out_spec: pytree.TreeSpec
    ops: tuple[LinearOp, ...]
    macs: dict[str, int]
    input_shapes: tuple[tuple[int, ...], ...]

    def run(self, inputs: Sequence[Tensor], linear: RunLinear) -> Any:
        """Execute once; `linear(op, x)` computes every quantizable layer.

        Args:
            inputs: tensors of `input_shapes`.
            linear: returns the layer's output for input `x`, bias included.

        Returns:
            What the module returns: a tensor, or the same nest of tensors.
        """
        return self._run(inputs, linear, lambda _slot, _value: None)

    def shapes(self, inputs: Sequence[Tensor]) -> list[tuple[int, ...] | None]:
        """Shape of the float32 tensor that each slot holds, by slot; None for any other value.

        Runs the network once, in float.
        """
        found: list[tuple[int, ...] | None] = [None] * self.n_slots

        def note(slot: int, value: Any) -> None:
            if isinstance(value, Tensor) and value.dtype == torch.float32:
                found[slot] = tuple(value.shape)

        with torch.no_grad():
            self._run(inputs, lambda op, x: op.apply(x, op.weight, op.bias), note)
        return found

    def to(self, device: torch.device) -> Graph:
        """The same network on another device: weights, constants, and where it makes tensors."""
        if device.type == "cpu":  # where graphs are captured
            return self

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device)
            return device if isinstance(value, torch.device) else value

        ops = {op.name: op.to(device) for op in self.ops}
        calls: list[Call] = []
        for call in self.calls:
            if call.op is None:
                args, kwargs = pytree.tree_map(moved, (call.args, call.kwargs))
                calls.append(replace(call, args=args, kwargs=kwargs))
            else:
                op = ops[call.op.name]
                calls.append(replace(call, target=op.apply, op=op))
        outputs = pytree.tree_map(moved, self.outputs)
        return replace(self, calls=tuple(calls), outputs=outputs, ops=tuple(ops.values()))

    def _run(
        self, inputs: Sequence[Tensor], linear: RunLinear, note: Callable[[int, Any], None]
    ) -> Any:
        env: list[Any] = [None] * self.n_slots
        env[: len(inputs)] = inputs
        for slot, value in enumerate(inputs):
            note(slot, value)
        for call in self.calls:
            if call.op is not None:
                env[call.slot] = linear(call.op, resolve(call.args[0], env))
            else:
                env[call.slot] = call.target(*resolve(call.args, env), **resolve(call.kwargs, env))
            note(call.slot, env[call.slot])
            for slot in call.frees:
                env[slot] = None
        return pytree.tree_unflatten(list(resolve(self.outputs, env)), self.out_spec)


def resolve(value: Any, env: list[Any]) -> Any:
    """`value` with every `Ref` in it replaced by what `env` holds for it."""
    if isinstance(value, Ref):
        return env[value.slot]
    if isinstance(value, (tuple, list)):
        return type(value)([resolve(v, env) for v in value])
    if isinstance(value, dict):
        return {k: resolve(v, env) for k, v in value.items()}
    return value


def slots_in(value: Any) -> list[int]:
    """The slots of every `Ref` in a nest of arguments, in order."""
    return [leaf.slot for leaf in pytree.tree_leaves(value) if isinstance(leaf, Ref)]


def with_frees(calls: Sequence[Call], outputs: tuple[Any, ...], n_inputs: int) -> tuple[Call, ...]:
    """Note with each call the values that nothing reads after it."""
    kept = {*slots_in(outputs), *range(n_inputs)}
    result: list[Call] = []
    for call in reversed(calls):
        read = set(slots_in((call.args, call.kwargs)))
        result.append(replace(call, frees=tuple(sorted((read | {call.slot}) - kept - {call.slot}))))
        kept |= read
    return tuple(reversed(result))
