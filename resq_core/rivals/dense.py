"""A network layer by layer in plain PyTorch, float or frame-quantized, for rivals to change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resq_core.encodings import Granularity, frame_slot
from resq_core.errors import OptionError
from resq_core.experiments.steps import FLOAT_BITS
from resq_core.graph import Graph
from resq_core.half_storage import with_half_storage
from resq_core.linear_op import LinearOp
from resq_core.model import QuantizedModel
from resq_core.residual import LayerQuantizers, QuantizedWeight, anchor_step

__all__ = ["DenseLayer", "DenseNetwork"]


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """One layer as a single frame runs it.

    Attributes:
        read: the input as the layer sees it: quantized, or as it is.
        run: the output for an input, bias included.
        weight_norm: ‖w‖_F of what it multiplies with.
        weight_bits, activation_bits: 0 to 8, or 32 in float.
    """

    read: Callable[[Tensor], Tensor]
    run: Callable[[Tensor], Tensor]
    weight_norm: float
    weight_bits: int
    activation_bits: int

    @property
    def bops_per_mac(self) -> int:
        """Weight bits × activation bits."""
        return self.weight_bits * self.activation_bits


@dataclass(frozen=True, slots=True)
class DenseNetwork:
    """A network for inputs of one size, and how each of its layers runs.

    Attributes:
        graph: the captured network.
        layers: by layer name.
    """

    graph: Graph
    layers: dict[str, DenseLayer]

    @classmethod
    def of(
        cls, model: QuantizedModel, inputs: Sequence[Tensor], in_float: bool = False
    ) -> DenseNetwork:
        """The model's network at its own precision, or in float.

        Quantized, it computes what a keyframe of the reference backend computes.

        Raises:
            OptionError: the precision has residual frames.
            CalibrationError: the model is not calibrated for it.
            CaptureError: the network cannot run at this size.
        """
        graph = model.graph(inputs)
        if in_float:
            return cls(graph, {op.name: _in_float(op) for op in graph.ops})
        if not model.precision.is_frame:
            raise OptionError(f"precision is {model.precision}; expected one of single frames")
        quantizers = {op.name: _quantizers(model, op) for op in graph.ops}
        layers = {name: _quantized(found) for name, found in quantizers.items()}
        return cls(with_half_storage(graph, quantizers.values(), inputs), layers)

    def run(self, inputs: Sequence[Tensor], linear: Callable[[LinearOp, Tensor], Tensor]) -> Any:
        """The whole network; `linear` computes a layer. Inputs stay the caller's own."""
        return self.graph.run([x.clone() for x in inputs], linear)


def _in_float(op: LinearOp) -> DenseLayer:
    return DenseLayer(
        read=lambda x: x,
        run=lambda x: op.apply(x, op.weight, op.bias),
        weight_norm=op.weight.norm().item(),
        weight_bits=FLOAT_BITS,
        activation_bits=FLOAT_BITS,
    )


def _quantizers(model: QuantizedModel, op: LinearOp) -> LayerQuantizers:
    p, encodings = model.precision, model.encodings
    slot = frame_slot(p)
    scale, signed = encodings.scale(slot, op.name), encodings.signed(slot, op.name)
    weight = QuantizedWeight.of(op, p.weight_bits, encodings.granularity is Granularity.CHANNEL)
    return LayerQuantizers.of(op, (p.activation_bits, scale), weight, signed=signed)


def _quantized(layer: LayerQuantizers) -> DenseLayer:
    weight = layer.planes[0].weight
    return DenseLayer(
        read=lambda x: layer.frame_codes(x) * layer.frame_scale,
        run=lambda x: anchor_step(layer, x, None)[0].z,
        weight_norm=weight.norm,
        weight_bits=weight.bits,
        activation_bits=layer.frame_bits,
    )
