"""A network that is trained in floating point: what quantization begins with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["FloatNetwork"]


class FloatNetwork(nn.Module):
    """One of our networks in training mode, its convolutions in bfloat16 where that is asked for.

    Args:
        network: what learns, batch norm and all.
        mixed: run under autocast to bfloat16; parameters, outputs and gradients stay float32.

    Attributes:
        head_pace: what the heads' learning rate should be, in those of the other weights.
    """

    head_pace = 1.0

    def __init__(self, network: nn.Module, mixed: bool = True) -> None:
        super().__init__()
        self.network = network.train()
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self._mixed = mixed

    @property
    def about(self) -> dict[str, str]:
        """What it is trained for: a state of another training does not fit it."""
        return {"precision": "float", "mixed": str(self._mixed)}

    def weights(self) -> Iterator[nn.Parameter]:
        """All parameters but the heads."""
        heads = {id(parameter) for parameter in self.heads()}
        yield from (p for p in self.network.parameters() if id(p) not in heads)

    def heads(self) -> Iterator[nn.Parameter]:
        """Parameters that learn at the schedule's `head_rate`; none unless a subclass says so."""
        return iter(())

    def scales(self) -> Iterator[nn.Parameter]:
        """None: nothing is quantized."""
        return iter(())

    def forward(self, frames: Sequence[Tensor]) -> list[Any]:
        """Every frame on its own.

        Args:
            frames: float32 [B, C, H, W] each.

        Returns:
            What the network returns for each, float32, with gradients.
        """
        outputs = []
        for x in frames:
            with self._autocast(x):
                output = self.network(x.contiguous(memory_format=torch.channels_last))
            outputs.append(
                pytree.tree_map(lambda y: y.float() if isinstance(y, Tensor) else y, output)
            )
        return outputs

    def _autocast(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self._mixed)
