"""Which class wins at each pixel: scores of a coarse grid to ids of a whole picture."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from resq_core.backends.extension import load_extension, native_status

__all__ = ["winners"]


def winners(scores: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Class ids uint8 [H, W] of scores, where size is (H, W), each 1 or more.

    Scores are resized (bilinear, align_corners=False), then the largest of each pixel wins, the
    lower id on a tie. On the CPU without a resized copy where the native extension runs: at
    360x480 and 11 classes that copy would be 7.6 MB.

    Args:
        scores: float32 [K, h, w], finite, K from 1 to 256.
        size: of the picture.

    Raises:
        OptionError: `RESQ_ISA` names no instruction set, or one that cannot run here.
    """
    isa = native_status().isa if scores.device.type == "cpu" else None
    if isa is not None:
        ids: NDArray[np.uint8] = load_extension().winners(scores.contiguous().numpy(), *size, isa)
        return ids
    if tuple(scores.shape[1:]) != size:
        scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    return scores.max(0).indices.to(torch.uint8).cpu().numpy()  # argmax is slower
