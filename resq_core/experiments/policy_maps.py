"""Which pixel of which layer gets how many bits, by distance to the keyframe (Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resq_core.backends.reference import ReferenceExecutor
from resq_core.errors import InputError, OptionError
from resq_core.linear_op import LinearOp
from resq_core.model import QuantizedModel
from resq_core.residual import anchor_step, residual_step
from resq_core.state import LayerState
from resq_core.stream import StreamOptions

__all__ = ["LayerBits", "bit_shares", "sequence_bits"]


@dataclass(frozen=True, slots=True)
class LayerBits:
    """The policy's decisions Π in one layer on one frame.

    Attributes:
        macs: multiply-accumulates of a dense pass.
        bits: uint8 [h, w] over the layer's input pixels.
    """

    macs: int
    bits: NDArray[np.uint8]


def sequence_bits(
    model: QuantizedModel, frames: Sequence[Tensor], options: StreamOptions
) -> list[dict[str, LayerBits]]:
    """Run a keyframe and the residual frames after it; decisions by layer, frame by frame.

    Args:
        model: at a precision with residual frames, on the reference backend.
        frames: preprocessed, float32 [1, C, H, W]; the first is the keyframe.
        options: reference and policy; the period is the sequence's own.

    Returns:
        For each frame after the first, layers in execution order; those whose input is no image
        are left out.

    Raises:
        OptionError: the model runs on another backend, or has no residual frames.
        InputError: there is no frame after the keyframe, or one is of another size.
    """
    if len(frames) < 2:
        raise InputError(f"the sequence has {len(frames)} frames; expected 2 or more")
    if any(x.shape != frames[0].shape for x in frames):
        raise InputError("the frames of the sequence differ in size; expected one size")
    executor = model.executor(frames[0])
    if model.precision.is_frame or not isinstance(executor, ReferenceExecutor):
        raise OptionError(
            f"the model is {model.precision} on the backend {executor.backend}; expected residual "
            "frames on the backend reference"
        )
    graph, layers = executor.graph, executor.layers
    states: dict[str, LayerState] = {}
    found: dict[str, LayerBits] = {}

    def anchor(op: LinearOp, x: Tensor) -> Tensor:
        step, state = anchor_step(layers[op.name], x, options.reference)
        assert state is not None
        states[op.name] = state
        return step.z

    def residual(op: LinearOp, x: Tensor) -> Tensor:
        state = states[op.name]
        step = residual_step(layers[op.name], x, state, options.reference, options.policy)
        if x.ndim == 4:
            found[op.name] = LayerBits(graph.macs[op.name], _as_map(step.bits, op, x))
        return step.z

    result: list[dict[str, LayerBits]] = []
    with torch.no_grad():
        graph.run([frames[0].clone()], anchor)
        for x in frames[1:]:
            graph.run([x.clone()], residual)
            result.append(dict(found))
    return result


def _as_map(bits: Tensor | int, op: LinearOp, x: Tensor) -> NDArray[np.uint8]:
    image = x.movedim(op.channel_dim, 1)[0, 0]
    if isinstance(bits, int):
        return np.full(tuple(image.shape), bits, np.uint8)
    chosen: NDArray[np.uint8] = bits.movedim(op.channel_dim, 1)[0, 0].to(torch.uint8).numpy()
    return chosen


def bit_shares(layers: Mapping[str, LayerBits], pool: Sequence[int]) -> dict[int, float]:
    """Share of input pixels that got each number of bits, layers weighted by their MACs; sums to 1.

    Raises:
        InputError: there is no layer.
    """
    macs = sum(layer.macs for layer in layers.values())
    if not macs:
        raise InputError("there is no layer whose input is an image")
    return {
        bits: sum(x.macs * float((x.bits == bits).mean()) for x in layers.values()) / macs
        for bits in pool
    }
