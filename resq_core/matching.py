"""Which calls of a captured graph are linear layers, and how each one becomes a `LinearOp`.

Networks write the same layer in many ways: as a module, as `x @ w`, as an `addmm` or an `einsum`,
as a convolution over one dimension. A `Match` holds the layer in the one form that the rest of
ResQ knows, with the views that lead into it and out of it; views compute nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from resq_core.linear_op import Kind, LinearOp

__all__ = ["DECOMPOSED", "Match", "View", "fold_batch_norm", "match_layer"]

_aten = torch.ops.aten

View = tuple[Callable[..., Any], tuple[Any, ...]]
"""An op and what it takes after its input."""

DECOMPOSED = (_aten.einsum.default, _aten.tensordot.default, _aten.inner.default)
"""Products that capture breaks into `mm` and `bmm`, so that those with a weight are seen."""

_CONV = {
    _aten.conv1d.default: 1,
    _aten.conv1d.padding: 1,
    _aten.conv2d.default: 2,
    _aten.conv2d.padding: 2,
}
_CONV_TRANSPOSE = {_aten.conv_transpose1d.default: 1, _aten.conv_transpose2d.input: 2}
_PRODUCT = (_aten.matmul.default, _aten.mm.default, _aten.bmm.default)


@dataclass(frozen=True, slots=True)
class Match:
    """A call that is a linear layer.

    Attributes:
        op: the layer, without a name.
        x: which argument of the call is its input.
        weight: which argument is its weight.
        norm_rank: how many dimensions the call's output has if dimension 1 holds the channels,
            where a batch norm looks for them.
        before, after: views applied in order to the input and to the layer's output.
    """

    op: LinearOp
    x: int
    weight: int
    norm_rank: int
    before: tuple[View, ...] = ()
    after: tuple[View, ...] = ()


def match_layer(
    target: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    shapes: tuple[torch.Size | None, ...],
    learned: tuple[bool, ...],
) -> Match | None:
    """The layer that a call stands for, or None where it is another op.

    A convolution or linear call is a layer wherever its weight is constant. A product is one only
    where the constant is learned: a fixed table, such as a resize matrix, stays a float op.

    Args:
        target: the op.
        args, kwargs: what it takes; constants are tensors.
        shapes: of the arguments that are tensors, constant or not.
        learned: which of the arguments come from a parameter.
    """
    if target is _aten.linear.default:
        return _linear(args)
    if target in _CONV:
        return _conv(args, _CONV[target], shapes[0])
    if target in _CONV_TRANSPOSE:
        return _conv_transpose(args, _CONV_TRANSPOSE[target], shapes[0])
    if target is _aten.addmm.default and not kwargs and learned[2]:
        return _addmm(args)
    if target in _PRODUCT and learned[0] != learned[1]:
        return _product(args, int(learned[1]), shapes)
    return None


def _linear(args: tuple[Any, ...]) -> Match | None:
    weight, bias = args[1], args[2] if len(args) > 2 else None
    if not _are_constant(weight, bias) or weight.ndim != 2:
        return None
    return Match(LinearOp("", Kind.LINEAR, weight, bias), 0, 1, 2)


def _addmm(args: tuple[Any, ...]) -> Match | None:
    """bias + x @ w."""
    bias, _, weight = args
    if not _are_constant(weight, bias) or bias.numel() != weight.shape[1]:
        return None
    op = LinearOp("", Kind.LINEAR, weight.mT.contiguous(), bias.reshape(-1))
    return Match(op, 1, 2, 2)


def _product(args: tuple[Any, ...], side: int, shapes: tuple[Any, ...]) -> Match | None:
    """x @ w (side 1) or w @ x (side 0), where w is one matrix for the whole batch."""
    weight, x_shape = args[side], shapes[1 - side]
    if not _are_constant(weight) or x_shape is None or len(x_shape) < 2:
        return None
    if not 2 <= weight.ndim <= len(x_shape) or weight.shape[:-2].numel() != 1:
        return None
    matrix = weight.reshape(weight.shape[-2:])
    if side == 1:
        op = LinearOp("", Kind.LINEAR, matrix.mT.contiguous())
        return Match(op, 0, 1, 2)
    turn: View = (_aten.transpose.int, (-2, -1))
    return Match(LinearOp("", Kind.LINEAR, matrix), 1, 0, 3, (turn,), (turn,))


def _conv(args: tuple[Any, ...], dims: int, shape: Any) -> Match | None:
    weight, bias, stride, padding, dilation, groups = _filled(args, (None, 1, 0, 1, 1))
    if not _are_constant(weight, bias):
        return None
    op = LinearOp(
        "",
        Kind.CONV2D,
        _as_image(weight, dims),
        bias,
        _sides(stride, dims, 1),
        padding if isinstance(padding, str) else _sides(padding, dims, 0),
        (0, 0),
        _sides(dilation, dims, 1),
        groups,
    )
    return Match(op, 0, 1, dims + 2, *_image_views(shape, dims))


def _conv_transpose(args: tuple[Any, ...], dims: int, shape: Any) -> Match | None:
    filled = _filled(args, (None, 1, 0, 0, 1, 1))
    weight, bias, stride, padding, output_padding, groups, dilation = filled
    if not _are_constant(weight, bias):
        return None
    op = LinearOp(
        "",
        Kind.CONV_TRANSPOSE2D,
        _as_image(weight, dims),
        bias,
        _sides(stride, dims, 1),
        _sides(padding, dims, 0),
        _sides(output_padding, dims, 0),
        _sides(dilation, dims, 1),
        groups,
    )
    return Match(op, 0, 1, dims + 2, *_image_views(shape, dims))


def _are_constant(weight: Any, bias: Any = None) -> bool:
    """Whether both are known now and float32; layers of other types run as torch runs them."""
    tensors = (weight,) if bias is None else (weight, bias)
    return all(isinstance(t, Tensor) and t.dtype == torch.float32 for t in tensors)


def _filled(args: tuple[Any, ...], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Everything after the input, with defaults for what a call left out (weight never is)."""
    given = args[1:]
    return given + defaults[len(given) - 1 :]


def _sides(value: Any, dims: int, across: int) -> tuple[int, int]:
    """A setting of one number, or of one per dimension, as (vertical, horizontal)."""
    items = [value] if isinstance(value, int) else list(value)
    if dims == 1:
        return across, items[0]
    return (items[0], items[0]) if len(items) == 1 else (items[0], items[1])


def _as_image(weight: Tensor, dims: int) -> Tensor:
    return weight.unsqueeze(-2) if dims == 1 else weight


def _image_views(shape: Any, dims: int) -> tuple[tuple[View, ...], tuple[View, ...]]:
    """[C, …] gets a batch, [B, C, L] becomes an image of height 1; and back."""
    before: list[View] = []
    after: list[View] = []
    if dims == 1:
        before.append((_aten.unsqueeze.default, (-2,)))
        after.append((_aten.squeeze.dim, (-2,)))
    if len(shape) == dims + 1:
        before.append((_aten.unsqueeze.default, (0,)))
        after.append((_aten.squeeze.dim, (0,)))
    return tuple(before), tuple(reversed(after))


def fold_batch_norm(op: LinearOp, norm: tuple[Any, ...]) -> LinearOp:
    """w·γ/√(σ²+ε) and (b − μ)·γ/√(σ²+ε) + β, in float64, rounded once.

    Args:
        op: the layer.
        norm: (γ or None, β or None, μ, σ², momentum, ε).
    """
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
