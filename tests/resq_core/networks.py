"""Small networks for tests; between them they hold every kind of layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (1, 3, 16, 24)


class Everything(nn.Module):
    """Grouped, dilated and transposed convolutions, in-place ops, attention, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.pool_norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.up_norm = nn.BatchNorm2d(6)
        self.prelu = nn.PReLU(6)
        self.project = nn.Linear(6, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = F.relu(self.stem_norm(self.stem(x)), inplace=True)
        y += self.grouped(y)
        y = self.pool_norm(F.avg_pool2d(y, 3, 1, 1))
        z = self.prelu(self.up_norm(self.up(y)))
        small = F.interpolate(z, scale_factor=0.25, mode="bilinear", align_corners=False)
        tokens = self.project(torch.cat([small, small.flip(1)], 1)[:, :6].flatten(2).mT)
        return {"map": z, "tokens": self.attention(tokens, tokens, tokens)[0]}


class Plain(nn.Module):
    """Two convolutions with a bias and a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(F.relu(self.first(x)))
        return result


def seeded(network: type[nn.Module], seed: int = 0) -> nn.Module:
    """A network in eval mode whose batch norms do something."""
    torch.manual_seed(seed)
    module = network().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 2.0)
            nn.init.normal_(part.bias, std=0.1)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return module


def moving_clip(frames: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """[frames, C, H, W]: a still background with a square that walks over it."""
    generator = torch.Generator().manual_seed(seed)
    background = torch.randn(shape, generator=generator)
    clip = background.repeat(frames, 1, 1, 1)
    side = shape[-2] // 4
    for i in range(frames):
        left = i % (shape[-1] - side)
        clip[i, :, side : 2 * side, left : left + side] = 2.0
    return clip
