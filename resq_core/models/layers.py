"""What several networks are made of: convolutions, residual blocks, resizing, option checks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from resq_core.errors import OptionError

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "check_count",
    "conv",
    "conv_norm",
    "conv_norm_relu",
    "initialise",
    "resize_like",
]


def conv(inputs: int, outputs: int, size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution with an odd square kernel, zero-padded by half of it."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)


def conv_norm(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias and its batch norm."""
    return [conv(inputs, outputs, size, stride), nn.BatchNorm2d(outputs)]


def conv_norm_relu(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias, its batch norm and a ReLU."""
    return [*conv_norm(inputs, outputs, size, stride), nn.ReLU()]


def resize_like(x: Tensor, target: Tensor, mode: str = "bilinear") -> Tensor:
    """Resize to the height and width of `target`; `mode` is bilinear (corners free) or nearest."""
    height, width = target.shape[-2:]
    corners = False if mode == "bilinear" else None
    return F.interpolate(x, size=(height, width), mode=mode, align_corners=corners)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut's convolution, or None where the shortcut is the identity."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(*conv_norm(inputs, outputs, 1, stride))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; without `final_relu` the sum stays signed."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, final_relu: bool = True) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)
        self.final_relu = final_relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(y) if self.final_relu else y


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 to 4 × `width` channels, with a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def check_count(name: str, value: object, limit: int) -> None:
    """Raise OptionError unless `value` is a whole number from 1 to `limit`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise OptionError(f"{name} is {value!r}; it must be a whole number from 1 to {limit}")


def initialise(net: nn.Module) -> None:
    """He initialisation; biases and batch norms keep PyTorch's own."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
