"""Where a network's values are kept in 16 bits.

A value that is added, joined, resized or pooled has to be at hand when only its partner changed,
so a stream keeps it. Half precision has eleven bits of mantissa: at the top of an 8-bit
quantizer's range it is off by a sixteenth of the quantizer's step at most. The rounding is part of
the graph, so that every executor computes the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from resq_core.graph import Call, Graph, Ref, slots_in, with_frees
from resq_core.residual import LayerQuantizers

__all__ = ["LARGEST_HALF", "round_to_half", "with_half_storage"]

LARGEST_HALF = 65504.0
"""The largest finite half."""

_LEAST_REACH = 2.0**-5  # a step of an 8-bit quantizer is a normal half then
_ROOM = 4.0  # a sum of what layers read may be larger than any one of them

_aten = torch.ops.aten
_KEEPERS = {
    _aten.add.Tensor,
    _aten.cat.default,
    _aten.upsample_bilinear2d.vec,
    _aten.upsample_nearest2d.vec,
    _aten.avg_pool2d.default,
    _aten.max_pool2d.default,
    _aten.adaptive_avg_pool2d.default,
}


def round_to_half(x: Tensor) -> Tensor:
    """float32 rounded to the nearest half (ties to even), saturating at ±65504."""
    return x.clamp(-LARGEST_HALF, LARGEST_HALF).half().float()


def with_half_storage(
    graph: Graph, layers: Iterable[LayerQuantizers], inputs: Sequence[Tensor]
) -> Graph:
    """The graph with a rounding behind every image that has to be kept.

    A network whose calibrated ranges come near a half's largest or smallest numbers is left as
    it is.

    Args:
        graph: the network.
        layers: its quantizers, for their ranges.
        inputs: example inputs; only shapes matter.
    """
    reaches = [
        layer.frame_scale * max(-low, high) for layer in layers for low, high in [layer.frame_range]
    ]
    if not reaches or min(reaches) < _LEAST_REACH or max(reaches) * _ROOM > LARGEST_HALF:
        return graph
    shapes = graph.shapes(inputs)
    outputs = set(slots_in(graph.outputs))
    kept = set()
    for call in graph.calls:
        if call.op is None and call.target in _KEEPERS:
            kept.update(slots_in((call.args, call.kwargs)))
    kept -= outputs
    moved: dict[int, int] = {}
    calls: list[Call] = []
    n_slots = graph.n_slots
    for call in graph.calls:
        calls.append(
            replace(call, args=_moved(call.args, moved), kwargs=_moved(call.kwargs, moved))
        )
        shape = shapes[call.slot]
        if call.slot in kept and shape is not None and len(shape) == 4:
            calls.append(Call(n_slots, round_to_half, (Ref(call.slot),), {}, None, ()))
            moved[call.slot] = n_slots
            n_slots += 1
    finished = with_frees(calls, graph.outputs, len(graph.input_shapes))
    return replace(graph, calls=finished, n_slots=n_slots)


def _moved(value: Any, moved: dict[int, int]) -> Any:
    if isinstance(value, Ref):
        return Ref(moved.get(value.slot, value.slot))
    if isinstance(value, (tuple, list)):
        return type(value)([_moved(v, moved) for v in value])
    if isinstance(value, dict):
        return {k: _moved(v, moved) for k, v in value.items()}
    return value
