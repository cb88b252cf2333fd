"""Optical flow by OpenCV's DIS (Kroeger et al., ECCV 2016), and what it costs in operations."""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from resq_core.errors import InputError, OptionError

__all__ = ["DisFlow"]

_PASSES = 2  # of the patch search, once from each corner
_CANDIDATES = 3  # per pass: a patch's own motion and two neighbours'
_SOR = 5  # inner iterations of the variational refinement

# multiply-adds per pixel, counted from the algorithm:
_PYRAMID = 4  # 2×2 mean
_GRADIENTS = 12 + 15  # two 3×3 Sobel filters; three products and their box sums
_SSD = 4 + 1  # bilinear sample, square
_DESCENT = 4 + 3  # bilinear sample, square, two products with the gradients
_DENSIFY = 4 + 3  # of each patch over a pixel: bilinear sample, weight, two sums
_REFINE = 80  # of an outer iteration: warp, derivatives, data and smoothness terms
_SOR_STEP = 14  # of an inner one


class DisFlow:
    """Dense inverse search with its `fast` settings: motion at a quarter of the resolution.

    Raises:
        OptionError: OpenCV is not installed.
    """

    def __init__(self) -> None:
        try:
            cv2 = importlib.import_module("cv2")
        except ImportError as error:
            raise OptionError(
                "optical flow needs OpenCV, which is not installed: pip install 'resq[flow]'"
            ) from error
        self._dis: Any = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, frame: Tensor, other: Tensor) -> Tensor:
        """Where each pixel of `frame` is in `other`.

        Args:
            frame: float32 [1, C, H, W], 32×96 pixels at least.
            other: of the same shape. The mean of the channels is looked at, in 256 steps over the
                range of both.

        Returns:
            float32 [1, 2, H, W]: (x, y) in pixels, `frame` at p shows what `other` shows at
            p + flow(p).

        Raises:
            InputError: other shapes.
        """
        if frame.shape != other.shape or frame.ndim != 4 or frame.shape[0] != 1:
            raise InputError(
                f"the frames are {list(frame.shape)} and {list(other.shape)}; expected two of one "
                "shape [1, C, H, W]"
            )
        _check_size((frame.shape[2], frame.shape[3]))
        grey = torch.cat([frame, other]).mean(1)
        low, high = torch.aminmax(grey)
        steps = (grey - low) * (255 / max((high - low).item(), 1e-12))
        first, second = steps.round().to(torch.uint8).numpy()
        flow = torch.from_numpy(self._dis.calc(first, second, None))
        return flow.permute(2, 0, 1)[None]

    def macs(self, size: tuple[int, int]) -> int:
        """Multiply-adds of one call for frames of (height, width).

        Every iteration of the descent is counted, though OpenCV stops a patch that no longer gains.

        Raises:
            InputError: smaller than 32×96 pixels.
        """
        _check_size(size)
        dis, (height, width) = self._dis, size
        patch, stride = dis.getPatchSize(), dis.getPatchStride()
        finest = dis.getFinestScale()
        coarsest = min(
            int(math.log2(max(size) / (4.0 * patch)) + 0.5), int(math.log2(min(size) / patch))
        )
        total = 0
        for level in range(coarsest + 1):
            pixels = (height >> level) * (width >> level)
            total += 2 * pixels * _PYRAMID * (level > 0)
            if level < finest:
                continue
            rows, columns = (max((n >> level) - patch, 0) // stride + 1 for n in size)
            per_patch_pixel = dis.getGradientDescentIterations() * _DESCENT
            per_patch_pixel += _PASSES * _CANDIDATES * _SSD
            total += rows * columns * patch * patch * per_patch_pixel
            refine = dis.getVariationalRefinementIterations() * (_REFINE + _SOR * _SOR_STEP)
            total += pixels * (_GRADIENTS + (patch // stride) ** 2 * _DENSIFY + refine)
        return int(total)


def _check_size(size: tuple[int, int]) -> None:
    """Smaller pictures have no pyramid of three levels, and OpenCV changes its settings."""
    if min(size) < 32 or max(size) < 96:
        raise InputError(f"frames are {size} (H, W); expected 32×96 pixels at least for the flow")
