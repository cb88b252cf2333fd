"""Objects in a frame: padding, masks per object, and one probability map from many.

Slots: 0 is the background, 1 to K − 1 are objects, of which the first so many are in use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["STRIDE", "aggregate", "crop", "object_masks", "pad_to_stride", "to_slots"]

STRIDE = 16
_EDGE = 1e-7  # probabilities are kept this far from 0 and 1


def _margins(length: int) -> tuple[int, int]:
    """What is missing to a multiple of the stride: half of it (rounded down) before, the rest."""
    missing = -length % STRIDE
    return missing // 2, missing - missing // 2


def pad_to_stride(x: Tensor) -> Tensor:
    """[…, H, W] with zeros around it, so that both sizes are multiples of 16."""
    top, bottom = _margins(x.shape[-2])
    left, right = _margins(x.shape[-1])
    return F.pad(x, (left, right, top, bottom))


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Undo `pad_to_stride` for an original of height × width."""
    top, left = _margins(height)[0], _margins(width)[0]
    return x[..., top : top + height, left : left + width]


def object_masks(masks: Tensor, num_objects: int) -> tuple[Tensor, Tensor]:
    """Each object's own mask, and that of all other objects together.

    Args:
        masks: [1, K, H, W], from 0 to 1.
        num_objects: how many of the slots 1 to K − 1 are in use.

    Returns:
        Twice [num_objects, H, W]; sums over the others are clamped to 0 … 1.
    """
    own = masks[0, 1 : num_objects + 1]
    others = [torch.cat([own[:i], own[i + 1 :]]).sum(0) for i in range(num_objects)]
    return own, torch.stack(others).clamp(0, 1)


def to_slots(x: Tensor, slots: int) -> Tensor:
    """[N, …] of N objects to [1, slots, …]: the background and slots not in use are zeros."""
    before = x.new_zeros(1, *x.shape[1:])
    after = x.new_zeros(slots - 1 - x.shape[0], *x.shape[1:])
    return torch.cat([before, x, after]).unsqueeze(0)


def aggregate(probabilities: Tensor, slots: int) -> Tensor:
    """Soft aggregation: independent probabilities of N objects to logits of all slots.

    Args:
        probabilities: [N, H, W], from 0 to 1.
        slots: K > N.

    Returns:
        log(p / (1 − p)), [1, K, H, W], with p clamped to 1e-7 … 1 − 1e-7. The background's p is
        the product of all 1 − p; that of slots not in use is 0.
    """
    together = to_slots(probabilities, slots)
    background = torch.prod(1 - probabilities, dim=0)[None, None]
    together = torch.cat([background, together[:, 1:]], 1).clamp(_EDGE, 1 - _EDGE)
    return torch.log(together / (1 - together))
