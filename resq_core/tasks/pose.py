"""Top-down pose: the picture around one person to a network's input, heatmaps to joints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resq_core.errors import InputError, OptionError
from resq_core.tasks.boxes import Box, Crop, cut_out
from resq_core.tasks.keypoints import JointSet
from resq_core.tasks.pictures import (
    Picture,
    Size,
    check_picture,
    check_size,
    check_statistics,
    normalised,
)

__all__ = ["MIN_SCORE", "Pose", "PoseTask", "flip_test", "next_box"]

MIN_SCORE = 0.2
"""The score from which a joint counts as seen, where the caller says nothing."""

_STRIDE = 4  # input pixels per heatmap cell
_SEEN = 0.25  # share of the joints that must be seen to say where somebody is
_PADDING = 0.1  # of the longer side: bodies reach beyond their joints
_LEAST_PADDING = 4.0  # pixels, so that joints on one spot still make a box


@dataclass(frozen=True, eq=False, slots=True)
class Pose:
    """The joints of one person.

    Attributes:
        keypoints: float32 [K, 3], read-only: column and row in image pixels, which may be outside
            the picture, and the score: the maximum of the joint's heatmap, about 0 to 1 for a
            trained network, not clamped.
        box: where the person was looked for.

    Raises:
        InputError: keypoints of another shape.
    """

    keypoints: NDArray[np.float32]
    box: Box

    def __post_init__(self) -> None:
        own = np.array(self.keypoints, np.float32)
        if own.ndim != 2 or own.shape[1] != 3:
            raise InputError(f"keypoints have the shape {list(own.shape)}; expected [K, 3]")
        own.flags.writeable = False
        object.__setattr__(self, "keypoints", own)


class PoseTask:
    """What surrounds a top-down pose network. Immutable: any number of threads may share one.

    joints: of the network's heatmaps, in their order.
    input_size: (height, width) of the network's input, multiples of 4 up to 16,384 pixels.
    mean, std: three values each for R, G, B in the range 0 to 1, std above 0.

    Raises OptionError where one of these does not hold.
    """

    def __init__(
        self, joints: JointSet, input_size: Size, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        check_size(input_size, "input_size", OptionError)
        if any(side % _STRIDE for side in input_size):
            raise OptionError(f"input_size is {input_size}; expected multiples of {_STRIDE}")
        check_statistics(mean, std)
        self.joints = joints
        self.input_size: Size = (input_size[0], input_size[1])
        self._mean = torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1)

    @property
    def heatmap_size(self) -> Size:
        """(height, width) of the heatmaps: a quarter of the input's."""
        return self.input_size[0] // _STRIDE, self.input_size[1] // _STRIDE

    def crop_of(self, box: Box) -> Crop:
        """The part of the picture that the network sees for a person in this box."""
        return Crop.around(box, self.input_size)

    def preprocess(self, image: Picture, crop: Crop) -> Tensor:
        """A crop of a picture uint8 [H, W, 3] RGB as the network's input float32 [1, 3, h, w].

        Cut out as `cut_out` says, black outside the picture, divided by 255, then normalised by
        mean and std. The picture is not changed, nor is its memory kept.

        Raises InputError for another shape or type, or a side above 16,384 pixels.
        """
        check_picture(image)
        pixels = torch.from_numpy(cut_out(image, crop, self.input_size))
        x = pixels.permute(2, 0, 1)[None].to(torch.float32, memory_format=torch.contiguous_format)
        return normalised(x, self._mean, self._std)

    def decode(self, heatmaps: Tensor, crop: Crop) -> Pose:
        """Heatmaps float [1, K, h/4, w/4] of a crop to joints in image pixels.

        Each joint is at its map's maximum, the first one where several are equal, moved a quarter
        cell along each axis towards the higher of the two neighbours, except beside the border. A
        joint without any value above 0 is put at the map's first cell, as in the official code.

        Raises InputError for another shape, or a NaN or infinity.
        """
        height, width = self.heatmap_size
        want = (1, len(self.joints), height, width)
        if tuple(heatmaps.shape) != want:
            raise InputError(
                f"heatmaps have the shape {tuple(heatmaps.shape)}; expected {list(want)}"
            )
        maps = heatmaps.detach()[0].float().cpu().numpy()
        if not np.isfinite(maps).all():
            raise InputError("the heatmaps hold NaN or infinity")
        points, scores = _peaks(maps)
        keypoints = np.column_stack((crop.to_image(points, self.heatmap_size), scores))
        return Pose(keypoints.astype(np.float32), crop.box)


def _peaks(maps: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Points [K, 2] in cells (x, y), and scores [K], of maps [K, h, w]."""
    count, height, width = maps.shape
    flat = maps.reshape(count, -1)
    first = flat.argmax(1)
    scores = flat[np.arange(count), first]
    first = np.where(scores > 0, first, 0)
    x, y = first % width, first // width
    points = np.stack((x, y), 1).astype(np.float64)
    inner = np.flatnonzero((x > 1) & (x < width - 1) & (y > 1) & (y < height - 1))
    x, y = x[inner], y[inner]
    slope_x = maps[inner, y, x + 1] - maps[inner, y, x - 1]
    slope_y = maps[inner, y + 1, x] - maps[inner, y - 1, x]
    points[inner] += 0.25 * np.sign(np.stack((slope_x, slope_y), 1))
    return points, scores


def flip_test(
    network: Callable[[Tensor], Tensor], x: Tensor, joints: JointSet, shift: bool = True
) -> Tensor:
    """Heatmaps [1, K, h, w] averaged over an input [1, 3, H, W] and its mirror image.

    shift: move the mirrored answer one cell to the right before averaging (its first column stays
        too), since mirrored pixels do not fall on the same cells; the official default.

    Raises InputError where the network does not return K heatmaps.
    """
    plain, mirrored = network(x), network(x.flip(-1))
    if plain.dim() != 4 or plain.shape[1] != len(joints):
        raise InputError(
            f"the network returned {tuple(plain.shape)}; expected [1, {len(joints)}, h, w]"
        )
    back = mirrored.flip(-1)[:, list(joints.flip)]
    if shift:
        back = torch.cat((back[..., :1], back[..., :-1]), -1)
    return (plain + back) / 2


def next_box(pose: Pose, image_size: Size, min_score: float = MIN_SCORE) -> Box | None:
    """Where to look for the same person next, inside a picture of (height, width).

    The rectangle around all joints that score `min_score` or more, padded on every side by a
    tenth of its longer side, at least 4 pixels, and cut at the picture's edges. None where fewer
    than a quarter of the joints score that much or less than a pixel is left: the person is gone.
    """
    seen = pose.keypoints[pose.keypoints[:, 2] >= min_score, :2].astype(np.float64)
    if len(seen) < max(1, math.ceil(_SEEN * len(pose.keypoints))):
        return None
    low, high = seen.min(0), seen.max(0)
    padding = max(_PADDING * float((high - low).max()), _LEAST_PADDING)
    low = np.maximum(low - padding, 0)
    high = np.minimum(high + padding, (image_size[1], image_size[0]))
    width, height = (float(side) for side in high - low)
    if min(width, height) < 1:
        return None
    return Box(float(low[0]), float(low[1]), width, height)
