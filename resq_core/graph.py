"""A captured network: a list of calls for fixed input shapes, and how it runs.

The graph keeps no state: all that changes from frame to frame lives in `StreamState`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from resq_core.linear_op import LinearOp

__all__ = ["Call", "Graph", "Ref", "RunLinear"]

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
    if isinstance(value, Ref):
        return env[value.slot]
    if isinstance(value, (tuple, list)):
        return type(value)([_resolve(v, env) for v in value])
    if isinstance(value, dict):
        return {k: _resolve(v, env) for k, v in value.items()}
    return value
