"""Semantic segmentation: a picture to a network's input, logits to a mask and its colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resq_core.backends.winners import winners
from resq_core.errors import InputError, OptionError
from resq_core.tasks.pictures import (
    Picture,
    check_picture,
    check_size,
    check_statistics,
    normalised,
)

__all__ = ["SegmentationTask"]

_MAX_CLASSES = 256  # a mask holds one byte per pixel


class SegmentationTask:
    """What surrounds a segmentation network. Immutable: any number of threads may share one.

    classes: 1 to 256 names, by class id.
    palette: one RGB colour per class, each value 0 to 255.
    input_size: (height, width) of the network's input, each 1 to 16,384 pixels.
    mean, std: three values each for R, G, B in the range 0 to 1, std above 0.

    Raises OptionError where one of these does not hold.
    """

    def __init__(
        self,
        classes: Sequence[str],
        palette: Sequence[tuple[int, int, int]],
        input_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        if not 1 <= len(classes) <= _MAX_CLASSES:
            raise OptionError(f"{len(classes)} classes given; expected 1 to {_MAX_CLASSES}")
        _check_palette(palette, len(classes))
        check_size(input_size, "input_size", OptionError)
        check_statistics(mean, std)
        self.classes = tuple(classes)
        self.palette = tuple(palette)
        self.input_size = (input_size[0], input_size[1])
        self._mean = torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1)
        self._colours = np.zeros((256, 3), np.uint8)  # ids without a class, void too, are black
        self._colours[: len(palette)] = palette

    def preprocess(self, image: Picture) -> Tensor:
        """Picture uint8 [H, W, 3] RGB to the network's input float32 [1, 3, h, w].

        Resized to `input_size` (bilinear, with anti-aliasing where it shrinks), divided by 255,
        then normalised by mean and std. The picture is not changed, nor is its memory kept.

        Raises InputError for another shape or type, or a side above 16,384 pixels.
        """
        check_picture(image)
        x = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        if tuple(x.shape[-2:]) != self.input_size:
            x = F.interpolate(
                x, self.input_size, mode="bilinear", align_corners=False, antialias=True
            )
        x = x.to(torch.float32, memory_format=torch.contiguous_format)
        return normalised(x, self._mean, self._std)

    def postprocess(self, logits: Tensor, size: tuple[int, int]) -> Picture:
        """Logits float [1, K, h, w] to class ids uint8 [H, W], where size is (H, W).

        Logits are resized (bilinear, align_corners=False), then the largest of each pixel wins,
        the lower id on a tie.

        Raises InputError for logits of another shape, or a size outside 1 to 16,384 pixels.
        """
        if logits.dim() != 4 or logits.shape[0] != 1 or logits.shape[1] != len(self.classes):
            raise InputError(
                f"logits have the shape {tuple(logits.shape)}; "
                f"expected [1, {len(self.classes)}, h, w]"
            )
        check_size(size, "size", InputError)
        return winners(logits[0].detach().float(), (size[0], size[1]))

    def colorize(self, ids: Picture) -> Picture:
        """Class ids uint8 [H, W] to colours uint8 [H, W, 3]; ids without a class are black.

        Raises InputError for another shape or type.
        """
        _check_ids(ids)
        colours: Picture = self._colours[ids]
        return colours

    def overlay(self, image: Picture, ids: Picture, alpha: float = 0.5) -> Picture:
        """The picture uint8 [H, W, 3] under its mask's colours; alpha 1 shows colours only.

        Raises InputError where the picture is not a picture or the mask has another size, and
        OptionError for an alpha outside 0 to 1.
        """
        check_picture(image)
        _check_ids(ids)
        if ids.shape != image.shape[:2]:
            raise InputError(f"the mask is {ids.shape} and the picture {image.shape[:2]} (H, W)")
        if not 0 <= alpha <= 1:
            raise OptionError(f"alpha is {alpha}; expected 0 to 1")
        weight = round(alpha * 256)
        mixed = image.astype(np.uint16) * np.uint16(256 - weight)
        mixed += self._colours.astype(np.uint16)[ids] * np.uint16(weight)
        result: Picture = ((mixed + 128) >> 8).astype(np.uint8)
        return result


def _check_ids(ids: Picture) -> None:
    if ids.dtype != np.uint8 or ids.ndim != 2:
        raise InputError(f"the mask is {ids.dtype} {list(ids.shape)}; expected uint8 [H, W]")


def _check_palette(palette: Sequence[tuple[int, int, int]], classes: int) -> None:
    if len(palette) != classes:
        raise OptionError(f"{len(palette)} colours given for {classes} classes")
    for index, colour in enumerate(palette):
        if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
            raise OptionError(f"colour {index} is {colour}; expected R, G, B from 0 to 255")
