"""What is minimized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = [
    "distillation",
    "heatmap_error",
    "lovasz_softmax",
    "matching_error",
    "ohem_cross_entropy",
    "squared_error",
]


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


def heatmap_error(heatmaps: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of heatmaps over those that count, joints and background in balance.

    A cell weighs 1 + (cells of the map / the sum of what is wanted in it) · what is wanted there:
    nearly all cells are to be 0, and without weights a network begins by answering that alone.

    Args:
        heatmaps: float32 [B, K, h, w].
        wanted: of that shape; maps of NaN do not count.

    Returns:
        A scalar; 0, with no gradient, where none counts.
    """
    counted = ~wanted[:, :, 0, 0].isnan()
    if not counted.any():
        return heatmaps.sum() * 0.0
    found, wanted = heatmaps[counted], wanted[counted]
    share = wanted.mean((1, 2), keepdim=True).clamp(min=1 / wanted[0].numel())
    return ((1 + wanted / share) * (found - wanted).square()).mean()


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
    logits = _resized(logits, labels)
    losses = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none")
    losses = losses[labels != ignore]
    if not losses.numel():
        return logits.sum() * 0.0
    hardest = max(int(losses.numel() * kept), 1)
    least = losses.detach().kthvalue(losses.numel() - hardest + 1).values
    bound = torch.minimum(least, -torch.tensor(threshold, device=least.device).log())
    return losses[losses.detach() >= bound].mean()


def lovasz_softmax(logits: Tensor, labels: Tensor, ignore: int, least: float = 1 / 128) -> Tensor:
    """The Lovász extension of 1 − IoU, a mean over the classes that are labelled.

    Berman et al., CVPR 2018, Algorithm 1: a class's pixels, sorted by how wrong they are, weigh
    what each adds to the Jaccard loss of that class. Rare and thin classes count like large ones.

    Args:
        logits: float32 [B, K, h, w], resized to the labels bilinearly.
        labels: int64 [B, H, W], class ids or `ignore`.
        ignore: label of pixels that do not count.
        least: pixels that are less wrong, 0 to 1, are not sorted: they would come last and
            weigh nothing, and they are most.

    Returns:
        A scalar from 0 to 1; 0, with no gradient, where no pixel counts.
    """
    logits = _resized(logits, labels)
    counted = labels != ignore
    scores = logits.softmax(1)
    terms = []
    for k in labels[counted].unique().tolist():  # type: ignore[no-untyped-call]
        own = (labels == k).to(scores.dtype)
        errors = (own - scores[:, k]).abs()
        wrong = counted & (errors.detach() >= least)
        total = own.sum()
        errors, order = errors[wrong].sort(descending=True)
        own = own[wrong][order]
        jaccard = 1 - (total - own.cumsum(0)) / (total + (1 - own).cumsum(0))
        terms.append(torch.dot(errors, jaccard.diff(prepend=jaccard.new_zeros(1))))
    return torch.stack(terms).mean() if terms else logits.sum() * 0.0


def matching_error(attention: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Binary cross entropy of an object's mask when attention alone carries it to a new frame.

    It teaches what to read: until values and decoder are of use, no other gradient does.

    Args:
        attention: float32 [N, t · h · w, h · w], weights that sum to 1 over dimension 1.
        masks: t + 1 of them, bool or float [N, H, W]: of the remembered frames, and the new one's.

    Returns:
        A scalar; places count by how much of them is the object's, 0 to 1.
    """
    cells = math.isqrt(masks[0][0].numel() // attention.shape[2])
    *remembered, wanted = (F.avg_pool2d(mask[:, None].float(), cells).flatten(1) for mask in masks)
    carried = torch.bmm(torch.cat(remembered, 1)[:, None], attention)[:, 0]
    return F.binary_cross_entropy(carried.clamp(1e-3, 1 - 1e-3), wanted)


def _resized(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[-2:] == labels.shape[-2:]:
        return logits
    return F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
