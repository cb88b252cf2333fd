"""EfficientNet-Lite0 (Tan and Le, 2019; Lite: no squeeze and excitation, ReLU6) up to 1/16.

Only what a network that works on pictures wants of it: the stages, and published weights in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from resq_core.errors import CheckpointError
from resq_core.models.checkpoint_files import check_finite, listed, read_tensors

__all__ = ["LITE0", "NAME", "STEM", "backbone_weights", "norm", "stages"]

NAME = "efficientnet_lite0"
STEM = 32  # channels of the first convolution, 3x3 with stride 2
LITE0 = (112, 40, 24)  # channels at 1/16, 1/8 and 1/4
_EPSILON = 1e-3
_STAGES = (  # each of blocks: inputs, outputs, kernel, stride, how many times wider inside
    ((32, 16, 3, 1, 1), (16, 24, 3, 2, 6), (24, 24, 3, 1, 6)),
    ((24, 40, 5, 2, 6), (40, 40, 5, 1, 6)),
    (
        (40, 80, 3, 2, 6),
        (80, 80, 3, 1, 6),
        (80, 80, 3, 1, 6),
        (80, 112, 5, 1, 6),
        (112, 112, 5, 1, 6),
        (112, 112, 5, 1, 6),
    ),
)
_NAMES = {  # of the published weights, within a block
    "_expand_conv": "conv1",
    "_bn0": "bn1",
    "_depthwise_conv": "conv2",
    "_bn1": "bn2",
    "_project_conv": "conv3",
    "_bn2": "bn3",
}


class _Inverted(nn.Module):
    """1x1 to more channels, a depthwise convolution, and 1x1 back; the sum stays signed."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, wider: int) -> None:
        super().__init__()
        inner = wider * inputs
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False) if wider > 1 else None
        self.bn1 = nn.BatchNorm2d(inner, _EPSILON) if wider > 1 else None
        self.conv2 = nn.Conv2d(inner, inner, size, stride, size // 2, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner, _EPSILON)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, _EPSILON)
        self._shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x
        if self.conv1 is not None and self.bn1 is not None:
            y = F.relu6(self.bn1(self.conv1(y)))
        y = F.relu6(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return x + y if self._shortcut else y


def stages() -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """From the stem's 32 channels at 1/2 to 1/4, 1/8 and 1/16, with fresh weights."""
    first, second, third = (nn.Sequential(*(_Inverted(*b) for b in blocks)) for blocks in _STAGES)
    return first, second, third


def norm() -> nn.BatchNorm2d:
    """Of the stem."""
    return nn.BatchNorm2d(STEM, _EPSILON)


def backbone_weights(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights of the whole classifier, under the names of a backbone of ours.

    Args:
        path: a PyTorch or safetensors file with the keys of the TensorFlow port
            (`_conv_stem.weight`, `_blocks.0._depthwise_conv.weight`, ...). Inputs were
            (RGB − 127) / 128; strided convolutions were padded at the right and below only, here
            on all sides.
        wanted: keys `conv1`, `bn1`, `res2.0.conv2` and so on, with the tensors that they replace.

    Raises:
        CheckpointError: the file cannot be read, lacks a key, has one of another shape, or holds
            NaN or infinity.
    """
    given = {_own(key): value for key, value in read_tensors(path).items()}
    bad = [k for k, v in wanted.items() if k not in given or given[k].shape != v.shape]
    if bad:
        raise CheckpointError(
            f"{path} is no EfficientNet-Lite0 with published names; missing or of another shape: "
            f"{listed(bad)}"
        )
    found = {key: given[key] for key in wanted}
    check_finite(found, path)
    return found


def _own(key: str) -> str:
    """A published key as ours; those beyond 1/16 become something that nothing asks for."""
    head, _, rest = key.partition(".")
    if head in ("_conv_stem", "_bn0"):
        return f"{'conv1' if head == '_conv_stem' else 'bn1'}.{rest}"
    parts = rest.split(".", 2)
    if head != "_blocks" or len(parts) != 3 or not parts[0].isdecimal():
        return key
    block, name, what = parts
    index = int(block)
    for stage, blocks in enumerate(_STAGES, 2):
        if index < len(blocks):
            return f"res{stage}.{index}.{_NAMES.get(name, name)}.{what}"
        index -= len(blocks)
    return key
