"""Deep feature flow (Zhu et al., CVPR 2017): a keyframe's features, moved along optical flow.

DFF learns its flow network together with the task; here the flow is a library's, and nothing is
trained. What is warped is the network's output, or the input of one of its last layers, from which
on the network then runs on every frame (DFF's task network).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from resq_core.errors import OptionError
from resq_core.evaluation import StepOutcome
from resq_core.experiments.steps import FLOAT_BITS
from resq_core.graph import Graph, Ref, resolve, slots_in
from resq_core.graph_cache import check_inputs
from resq_core.linear_op import LinearOp
from resq_core.model import QuantizedModel
from resq_core.rivals.dense import DenseNetwork

__all__ = ["FeatureWarping", "Flow", "warp"]

_WARP_MACS = 4  # per value: a bilinear sample


class Flow(Protocol):
    """Optical flow; see `DisFlow`."""

    def __call__(self, frame: Tensor, other: Tensor) -> Tensor:
        """float32 [1, 2, H, W], in pixels."""

    def macs(self, size: tuple[int, int]) -> int:
        """Multiply-adds of one call."""


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """Features of a keyframe as they lie in a later frame: f^t(p) = f^k(p + flow(p)), bilinear.

    Args:
        features: float32 [1, C, h, w].
        flow: float32 [1, 2, H, W], (x, y) in its own pixels; of the same picture at any size.

    Returns:
        float32 [1, C, h, w]; beyond the edge the edge goes on.
    """
    height, width = features.shape[-2:]
    share = flow * (2 / torch.tensor(flow.shape[:1:-1])).view(1, 2, 1, 1)  # of half the picture
    shift = F.interpolate(share, (height, width), mode="bilinear", align_corners=False)
    rows, columns = ((2 * torch.arange(n) + 1) / n - 1 for n in (height, width))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
    grid = grid + shift[0].permute(1, 2, 0)
    return F.grid_sample(features, grid[None], padding_mode="border", align_corners=False)


class FeatureWarping:
    """One clip: keyframes at the model's precision, their features warped in between; a `Step`.

    Args:
        model: at a precision for frames, for example W8A8; a network with one output, an image.
        period: T.
        flow: from a frame to its keyframe; counted, with the warp, as 32×32 bits beside the
            network, in the place of a policy's operations.
        layer: whose input is warped; None for the network's output. Everything after it must
            depend on nothing but its input.

    Raises:
        OptionError: a period below 1.
    """

    def __init__(
        self, model: QuantizedModel, period: int, flow: Flow, layer: str | None = None
    ) -> None:
        if period < 1:
            raise OptionError(f"period T is {period}; expected at least 1")
        self._model, self._period, self._flow, self._layer = model, period, flow, layer
        self._network: DenseNetwork | None = None
        self._tail: Callable[[Tensor], Any] | None = None
        self._ran: list[str] = []
        self._keyframe: tuple[Tensor, Tensor] | None = None  # the frame, its features
        self._since = 0

    def __call__(self, x: Tensor) -> StepOutcome:
        """The next frame, float32 [1, C, H, W]. Raises as `prepare` does."""
        (x,) = check_inputs(x)
        if self._network is None or self._network.graph.input_shapes != (tuple(x.shape),):
            self.prepare(x)
        if self._keyframe is None or self._since == self._period:
            self._since, outcome = 1, self._run_keyframe(x)
        else:
            self._since, outcome = self._since + 1, self._run_warped(x, *self._keyframe)
        return outcome

    def prepare(self, x: Tensor) -> None:
        """Make ready for frames of this size, the next of which is a keyframe.

        Raises:
            OptionError: a precision with residual frames; no such layer, or one past which other
                values go on.
            InputError, CaptureError, CalibrationError: such frames or the model cannot be used.
        """
        self._flow.macs((x.shape[-2], x.shape[-1]))
        self._network = DenseNetwork.of(self._model, (x,))
        self._keyframe = None
        if self._layer is not None:
            self._tail = _tail(self._network.graph, self._layer, self._linear)

    def _linear(self, op: LinearOp, v: Tensor) -> Tensor:
        assert self._network is not None
        self._ran.append(op.name)
        return self._network.layers[op.name].run(v)

    def _run_keyframe(self, x: Tensor) -> StepOutcome:
        assert self._network is not None
        features: Tensor | None = None

        def linear(op: LinearOp, v: Tensor) -> Tensor:
            nonlocal features
            if op.name == self._layer:
                features = v
            return self._linear(op, v)

        self._ran.clear()
        with torch.no_grad():
            output = self._network.run((x,), linear)
        self._keyframe = x, output if features is None else features
        return self._outcome(output, 0, is_anchor=True)

    def _run_warped(self, x: Tensor, keyframe: Tensor, features: Tensor) -> StepOutcome:
        self._ran.clear()
        with torch.no_grad():
            moved = warp(features, self._flow(x, keyframe))
            output = moved if self._tail is None else self._tail(moved)
        height, width = x.shape[-2:]
        macs = self._flow.macs((height, width)) + _WARP_MACS * features.numel()
        return self._outcome(output, macs, is_anchor=False)

    def _outcome(self, output: Tensor, own_macs: int, is_anchor: bool) -> StepOutcome:
        """With the layers that ran."""
        assert self._network is not None
        layers, macs = self._network.layers, self._network.graph.macs
        bops = sum(macs[name] * layers[name].bops_per_mac for name in self._ran)
        bits = sum(macs[name] * layers[name].activation_bits for name in self._ran)
        return StepOutcome(
            output,
            bops,
            own_macs * FLOAT_BITS * FLOAT_BITS,
            bits / max(sum(macs.values()), 1),
            is_anchor,
        )


def _tail(
    graph: Graph, layer: str, linear: Callable[[LinearOp, Tensor], Tensor]
) -> Callable[[Tensor], Any]:
    """The network from one layer on, as a function of that layer's input.

    Raises OptionError where there is no such layer, or what comes after reads more than that.
    """
    names = [None if call.op is None else call.op.name for call in graph.calls]
    if layer not in names:
        raise OptionError(f"the network has no layer {layer!r}; its last is {graph.ops[-1].name!r}")
    calls = graph.calls[names.index(layer) :]
    source = calls[0].args[0]
    made = {call.slot for call in calls}
    read = {slot for call in calls for slot in slots_in((call.args, call.kwargs))}
    if not isinstance(source, Ref) or (read | {*slots_in(graph.outputs)}) - made != {source.slot}:
        raise OptionError(f"what follows layer {layer!r} does not depend on its input alone")

    def run(x: Tensor) -> Any:
        env: list[Any] = [None] * graph.n_slots
        env[source.slot] = x
        for call in calls:
            if call.op is not None:
                env[call.slot] = linear(call.op, resolve(call.args[0], env))
            else:
                env[call.slot] = call.target(*resolve(call.args, env), **resolve(call.kwargs, env))
        return pytree.tree_unflatten(list(resolve(graph.outputs, env)), graph.out_spec)

    return run
