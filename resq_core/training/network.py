"""A network that is trained as it runs: sequences of T frames through the residual path."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resq_core.capture import export
from resq_core.encodings import Encodings, Granularity, frame_slot, slots_of
from resq_core.errors import InputError
from resq_core.linear_op import LinearOp
from resq_core.lowering import lower
from resq_core.model import QuantizedModel
from resq_core.runtime import Grid
from resq_core.training.layers import TrainedLayer, Transmitted

__all__ = ["TrainedNetwork"]

_CPU = torch.device("cpu")


class TrainedNetwork(nn.Module):
    """A calibrated model whose weights and activation scales learn (QAT, Sec. 4).

    The scales start where calibration left them. Rounding, in weights, keyframes and residuals,
    passes gradients straight through; the scales get the gradient of that (LSQ). Weight scales
    follow the weights (Eq. 7). Batch norm is folded as in inference, with its statistics frozen;
    its factors and shifts learn. Values that inference keeps in half precision are kept whole here.

    Args:
        model: calibrated, at the precision and with the options to train for.
        shape: of one batch of frames, [B, C, H, W].
        device: where it learns; frames have to be there.
        mixed: multiply in bfloat16. What is quantized keeps its steps in float32 between layers,
            but products are rounded to 8 binary digits; weights and gradients stay float32.

    Attributes:
        network: the float network whose parameters are trained.
        log_scales: of every quantizer of the precision, the logarithms by layer.

    Raises:
        CalibrationError: the model is not calibrated for its precision.
        CaptureError: the network cannot be captured at this shape.
    """

    def __init__(
        self,
        model: QuantizedModel,
        shape: Sequence[int],
        device: torch.device = _CPU,
        mixed: bool = False,
    ) -> None:
        super().__init__()
        model.encodings.require(model.precision)
        self._model, self._shape, self._mixed = model, tuple(shape), mixed
        self.network = copy.deepcopy(model.module).to(device).eval().requires_grad_(True)
        self._program = export(self.network, [torch.zeros(self._shape, device=device)])
        with torch.no_grad():
            self._names = tuple(op.name for op in lower(self._program, (self._shape,)).ops)
        self._slots = slots_of(model.precision)
        self.log_scales = nn.ParameterList(
            torch.tensor(
                [model.encodings.scale(slot, name) for name in self._names], device=device
            ).log()
            for slot in self._slots
        )

    @property
    def about(self) -> dict[str, str]:
        """What it is trained for: a state of another training does not fit it."""
        options = self._model.options
        return {
            "precision": str(self._model.precision),
            "shape": "x".join(map(str, self._shape)),
            "period": str(options.period),
            "reference": str(options.reference),
            "policy": f"{options.policy.form} {options.policy.threshold}",
            "mixed": str(self._mixed),
        }

    def weights(self) -> Iterator[nn.Parameter]:
        """Parameters of the float network."""
        return self.network.parameters()

    def heads(self) -> Iterator[nn.Parameter]:
        """None: all weights learn at one rate."""
        return iter(())

    def scales(self) -> Iterator[nn.Parameter]:
        """Logarithms of the activation scales."""
        return self.log_scales.parameters()

    def train(self, mode: bool = True) -> TrainedNetwork:
        """Does nothing: what is trained is the network in eval mode."""
        return self

    def forward(self, frames: Sequence[Tensor]) -> list[Any]:
        """A keyframe and the residual frames after it.

        Args:
            frames: T tensors float32 of the shape that was given.

        Returns:
            What the network returns for each, with gradients.

        Raises:
            InputError: a frame has another shape.
        """
        for i, x in enumerate(frames):
            if tuple(x.shape) != self._shape:
                raise InputError(
                    f"frame {i} has shape {list(x.shape)}; expected {list(self._shape)}"
                )
        graph = lower(self._program, (self._shape,), attached=True)
        layers = {op.name: self._layer(op, i) for i, op in enumerate(graph.ops)}
        options, states = self._model.options, dict[str, Transmitted]()

        def anchor(op: LinearOp, x: Tensor) -> Tensor:
            z, states[op.name] = layers[op.name].anchor(x, options.reference)
            return z

        def residual(op: LinearOp, x: Tensor) -> Tensor:
            state = states[op.name]
            return layers[op.name].residual(x, state, options.reference, options.policy)

        every_frame = self._model.precision.is_frame
        return [
            graph.run([x], anchor if i == 0 or every_frame else residual)
            for i, x in enumerate(frames)
        ]

    def _layer(self, op: LinearOp, place: int) -> TrainedLayer:
        scales = {
            slot: logs[place].exp() for slot, logs in zip(self._slots, self.log_scales, strict=True)
        }
        per_channel = self._model.encodings.granularity is Granularity.CHANNEL
        aligned = self._model.grid is Grid.ALIGNED
        precision, encodings = self._model.precision, self._model.encodings
        signed = encodings.signed(frame_slot(precision), op.name)
        return TrainedLayer.of(op, precision, scales, per_channel, aligned, signed, self._mixed)

    def quantized(self) -> QuantizedModel:
        """What was learned so far, to be run and saved; for this precision alone."""
        scales = {
            slot: dict(zip(self._names, logs.detach().exp().tolist(), strict=True))
            for slot, logs in zip(self._slots, self.log_scales, strict=True)
        }
        start = self._model.encodings
        unsigned = {s: names for s, names in start.unsigned.items() if s in scales}
        return self._model.with_network(
            self.network, Encodings(start.granularity, scales, start.about, unsigned)
        )
