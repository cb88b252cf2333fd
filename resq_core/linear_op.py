"""What Conv2d, ConvTranspose2d and Linear have in common: a linear map with a weight and a bias.

Everything that depends on the kind of layer (geometry, where the channels are, how many
multiply-accumulates a call costs) is here, so that the rest treats the three alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Kind", "LinearOp"]


class Kind(Enum):
    """The layers that are residual-quantized."""

    CONV2D = "conv2d"
    CONV_TRANSPOSE2D = "conv_transpose2d"
    LINEAR = "linear"


@dataclass(frozen=True, eq=False)
class LinearOp:
    """One call site of a convolution, transposed convolution or linear layer.

    Attributes:
        name: unique in the network; the module's path, with `#2`, `#3`… for further calls.
        kind: which of the three.
        weight: float32; conv [O, I/g, kh, kw], transposed [I, O/g, kh, kw], linear [O, I].
        bias: float32 [O] or None.
        stride, padding, output_padding, dilation, groups: as in torch; padding may be a string.
    """

    name: str
    kind: Kind
    weight: Tensor
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = field(default=1)

    @property
    def channel_dim(self) -> int:
        """Dimension of inputs and outputs that holds the channels."""
        return -1 if self.kind is Kind.LINEAR else 1

    @property
    def out_channels(self) -> int:
        """Number of output channels O."""
        if self.kind is Kind.CONV_TRANSPOSE2D:
            return self.weight.shape[1] * self.groups
        return self.weight.shape[0]

    def to(self, device: torch.device) -> LinearOp:
        """The same layer with its weights on a device."""
        bias = None if self.bias is None else self.bias.to(device)
        return replace(self, weight=self.weight.to(device), bias=bias)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The linear map with a given weight (of the shape of `self.weight`) and bias."""
        if self.kind is Kind.LINEAR:
            return F.linear(x, weight, bias)
        if self.kind is Kind.CONV2D:
            return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        if isinstance(self.padding, str):
            raise TypeError("a transposed convolution takes numbers for its padding")
        return F.conv_transpose2d(
            x,
            weight,
            bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )

    def macs(self, in_shape: torch.Size, out_shape: torch.Size) -> int:
        """Multiply-accumulates of one call on these shapes (padding counted, bias not)."""
        if self.kind is Kind.CONV_TRANSPOSE2D:
            return int(in_shape.numel() * self.weight[0].numel())
        return int(out_shape.numel() * self.weight[0].numel())

    def per_output_channel(self, reduce: str, tensor: Tensor) -> Tensor:
        """`amax` or `sum` of a weight-shaped tensor for each output channel: [O]."""
        if self.kind is Kind.CONV_TRANSPOSE2D:
            grouped = torch.unflatten(tensor, 0, (self.groups, -1)).transpose(1, 2)
            rows = grouped.flatten(0, 1).flatten(1)
        else:
            rows = tensor.flatten(1)
        return rows.amax(1) if reduce == "amax" else rows.sum(1)

    def channels_to_weight(self, per_channel: Tensor) -> Tensor:
        """Reshape [O] (or a scalar) so that it broadcasts over `weight`, by output channel."""
        if per_channel.ndim == 0:
            return per_channel
        if self.kind is Kind.LINEAR:
            return per_channel[:, None]
        if self.kind is Kind.CONV2D:
            return per_channel[:, None, None, None]
        inputs_per_group = self.weight.shape[0] // self.groups
        rows = torch.unflatten(per_channel, 0, (self.groups, -1))
        rows = rows.repeat_interleave(inputs_per_group, 0)
        return rows[:, :, None, None]

    def channels_to_output(self, per_channel: Tensor) -> Tensor:
        """Reshape [O] (or a scalar) so that it broadcasts over an output."""
        if per_channel.ndim == 0 or self.kind is Kind.LINEAR:
            return per_channel
        return per_channel[None, :, None, None]

    def active_outputs(self, active: Tensor) -> float:
        """Share of output pixels that read at least one active input pixel, halo included.

        Args:
            active: bool, the input's shape with one channel.

        Returns:
            A fraction from 0 to 1.
        """
        if self.kind is Kind.LINEAR:
            return active.float().mean().item() if active.numel() else 0.0
        if not bool(active.any()):
            return 0.0
        ones = torch.ones(1, 1, *self.weight.shape[2:], device=active.device)
        single = LinearOp(
            self.name,
            self.kind,
            ones,
            None,
            self.stride,
            self.padding,
            self.output_padding,
            self.dilation,
        )
        reached = single.apply(active.float(), ones)
        return (reached > 0.5).float().mean().item()
