"""What is minimized."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["distillation", "ohem_cross_entropy", "squared_error"]


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean Kullback–Leibler divergence of class scores from a teacher's, over the pixels.

    Args:
        logits: float32 [B, K, h, w].
        teacher: of that shape; it gets no gradient.
    """
    wanted = F.log_softmax(teacher.detach(), 1)
    return (
        F.kl_div(F.log_softmax(logits, 1), wanted, reduction="none", log_target=True).sum(1).mean()
    )


def squared_error(output: Any, teacher: Any) -> Tensor:
    """Mean squared error in units of the teacher's variance, averaged over the tensors of a nest.

    For outputs that are no class scores, such as heatmaps.
    """
    pairs = zip(pytree.tree_leaves(output), pytree.tree_leaves(teacher), strict=True)
    terms = [
        (a - b.detach()).square().mean() / b.detach().var(correction=0).clamp(min=1e-12)
        for a, b in pairs
        if isinstance(a, Tensor)
    ]
    return torch.stack(terms).mean()


def ohem_cross_entropy(
    logits: Tensor, labels: Tensor, ignore: int, threshold: float = 0.9, kept: float = 1 / 16
) -> Tensor:
    """Cross entropy over the hard pixels: online hard example mining, Shrivastava et al. 2016.

    A pixel is hard if its own class got less than `threshold`, or if it is among the hardest
    share `kept` of the batch; the loss is the mean over them.

    Args:
        logits: float32 [B, K, h, w], resized to the labels bilinearly.
        labels: int64 [B, H, W], class ids or `ignore`.
        ignore: label of pixels that do not count.
        threshold: of the probability, 0 to 1.
        kept: share of the pixels, 0 to 1, at least one.

    Returns:
        A scalar; 0, with no gradient, where no pixel counts.
    """
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none")
    losses = losses[labels != ignore]
    if not losses.numel():
        return logits.sum() * 0.0
    hardest = max(int(losses.numel() * kept), 1)
    least = losses.detach().kthvalue(losses.numel() - hardest + 1).values
    bound = torch.minimum(least, -torch.tensor(threshold).log())
    return losses[losses.detach() >= bound].mean()
