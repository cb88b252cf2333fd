"""Video object segmentation: first masks from a client, pictures in, object ids out.

Objects have ids from 1 to 255, because a result holds one byte per pixel and 0 is the background.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from resq_core.errors import InputError, OptionError
from resq_core.tasks.rle import Mask, checked_size, mask_from_rle, mask_to_rle

__all__ = [
    "DAVIS_PALETTE",
    "MAX_ID",
    "MAX_OBJECTS",
    "Mask",
    "VosTask",
    "check_mask",
    "check_object_id",
    "check_objects",
    "mask_from_box",
    "mask_from_rle",
    "mask_to_rle",
    "masks_from_palette",
    "paint",
]

Picture = NDArray[np.uint8]

MAX_OBJECTS = 32
"""Objects followed at the same time."""

MAX_ID = 255
"""Largest object id."""

_MAX_SIDE = 16_384
_DEFAULT_SIDE = 864


def _davis_palette() -> Picture:
    """The colour map of PASCAL VOC and DAVIS: an id's bits dealt out to R, G and B in turn.

    Bits 0, 3, 6 go to red, 1, 4, 7 to green, 2, 5 to blue, the lowest to the highest bit each.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= (((ids >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    colours.setflags(write=False)
    return colours


DAVIS_PALETTE: Picture = _davis_palette()
"""RGB uint8 [256, 3] by object id; `DAVIS_PALETTE[ids]` colours a result. Read-only."""


def masks_from_palette(ids: Picture, void: int | None = None) -> dict[int, Mask]:
    """The objects of a picture of ids, uint8 [H, W]: every value but 0 and `void` is one.

    Returns:
        bool [H, W] by id, ascending.

    Raises:
        InputError: another shape or type.
        OptionError: no object, or more than `MAX_OBJECTS`.
    """
    if ids.ndim != 2 or ids.dtype != np.uint8 or not ids.size:
        raise InputError(f"the mask is {ids.dtype} {list(ids.shape)}; expected uint8 [H, W]")
    found = [int(i) for i in np.unique(ids) if i not in (0, void)]
    _check_number(len(found))
    return {i: ids == i for i in found}


def mask_from_box(box: Sequence[float], size: Sequence[int]) -> Mask:
    """A filled box as a mask.

    Args:
        box: left, top, right, bottom in pixels, the last two exclusive; rounded to whole pixels
            and cut to the picture.
        size: (H, W) of the picture.

    Raises:
        InputError: four finite numbers are expected, and at least one pixel inside the picture.
    """
    height, width = checked_size(size)
    try:
        sides = [float(side) for side in box]
    except (TypeError, ValueError) as error:
        raise InputError(f"the box holds something that is no number: {error}") from error
    if len(sides) != 4 or not all(math.isfinite(side) for side in sides):
        raise InputError(f"the box is {sides[:8]}; expected left, top, right, bottom, all finite")
    left, right = (round(min(max(side, 0), width)) for side in sides[::2])
    top, bottom = (round(min(max(side, 0), height)) for side in sides[1::2])
    if left >= right or top >= bottom:
        raise InputError(
            f"the box {sides} (left, top, right, bottom) holds no pixel of a picture of "
            f"{height}x{width} (HxW)"
        )
    mask = np.zeros((height, width), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def check_object_id(object_id: int) -> int:
    """The id; OptionError outside 1 to `MAX_ID`."""
    whole = isinstance(object_id, (int, np.integer)) and not isinstance(object_id, bool)
    if not whole or not 1 <= object_id <= MAX_ID:
        raise OptionError(f"object id is {object_id!r}; expected a whole number from 1 to {MAX_ID}")
    return int(object_id)


def check_mask(object_id: int, mask: Mask, size: tuple[int, ...] | None = None) -> Mask:
    """A copy of an object's mask, bool [H, W].

    Raises:
        InputError: not bool (or uint8) [H, W], without a pixel, or not of `size` (H, W).
    """
    what = f"the mask of object {object_id}"
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype not in (bool, np.uint8):
        kind = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask)
        raise InputError(f"{what} is {kind}; expected bool [H, W]")
    if size is not None and mask.shape != size:
        raise InputError(f"{what} is {mask.shape} and the picture {size} (H, W)")
    if not mask.any():
        raise InputError(f"{what} is empty; expected at least one pixel")
    copy: Mask = mask.astype(np.bool_)
    return copy


def check_objects(objects: Mapping[int, Mask]) -> dict[int, Mask]:
    """Copies of the first frame's masks, by ascending id.

    Raises:
        OptionError: no object, more than `MAX_OBJECTS`, or an id out of range.
        InputError: a mask is empty, of another type or of another size than the others, or later
            objects cover all of it.
    """
    _check_number(len(objects))
    masks: dict[int, Mask] = {}
    size: tuple[int, ...] | None = None
    for object_id in sorted(check_object_id(i) for i in objects):
        masks[object_id] = check_mask(object_id, objects[object_id])
        size = size or masks[object_id].shape
        if masks[object_id].shape != size:
            raise InputError(
                f"the mask of object {object_id} is {masks[object_id].shape} and that of object "
                f"{min(masks)} {size} (H, W)"
            )
    ids = paint(np.zeros(size or (0, 0), np.uint8), masks)
    hidden = [i for i in masks if not (ids == i).any()]
    if hidden:
        raise InputError(f"other objects cover all of the objects {hidden}; expected some pixels")
    return {i: ids == i for i in masks}


def paint(ids: Picture, masks: Mapping[int, Mask]) -> Picture:
    """Object ids uint8 [H, W] with masks painted over them in order: the last one is on top."""
    result = ids.copy()
    for object_id, mask in masks.items():
        result[mask] = object_id
    return result


def _check_number(objects: int) -> None:
    if not 1 <= objects <= MAX_OBJECTS:
        raise OptionError(f"{objects} objects; expected 1 to {MAX_OBJECTS}")


class VosTask:
    """What surrounds the network. Immutable: any number of threads may share one.

    Pictures keep their size up to a cap on the longer side; larger ones are scaled down to it,
    proportions kept. The network normalises colours, and pads sides to multiples of 16, itself.

    max_side: the cap, 16 to 16,384 pixels. Raises OptionError outside that.
    """

    def __init__(self, max_side: int = _DEFAULT_SIDE) -> None:
        whole = isinstance(max_side, int) and not isinstance(max_side, bool)
        if not whole or not 16 <= max_side <= _MAX_SIDE:
            raise OptionError(f"max_side is {max_side!r}; expected 16 to {_MAX_SIDE} pixels")
        self.max_side = max_side

    def network_size(self, size: Sequence[int]) -> tuple[int, int]:
        """(h, w) that a picture of `size` (H, W) has inside the network."""
        scale = min(1.0, self.max_side / max(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def preprocess(self, image: Picture) -> Tensor:
        """Picture uint8 [H, W, 3] RGB to float32 [1, 3, h, w] from 0 to 1.

        Raises InputError for another shape or type, or a side outside 1 to 16,384 pixels.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"the picture is {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3]"
            )
        if not all(1 <= side <= _MAX_SIDE for side in image.shape[:2]):
            raise InputError(
                f"the picture is {image.shape[:2]}; expected sides of 1 to {_MAX_SIDE}"
            )
        x = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        x = x.to(torch.float32, memory_format=torch.contiguous_format) / 255
        return _resized(x, self.network_size(image.shape[:2]))

    def encode_masks(self, masks: Sequence[Mask]) -> Tensor:
        """Masks bool [H, W] of N objects to float32 [N, h, w], from 0 to 1 where edges blur."""
        x = torch.from_numpy(np.stack(masks)).float()[None]
        return _resized(x, self.network_size(masks[0].shape))[0]

    def postprocess(
        self, probabilities: Tensor, ids: Sequence[int], size: tuple[int, int]
    ) -> Picture:
        """Probabilities float [1, 1 + N, h, w] to object ids uint8 [H, W], where size is (H, W).

        Args:
            probabilities: of the background, then of each object in `ids`.
            ids: N object ids, each 1 to 255.
            size: of the picture; probabilities are resized to it (bilinear) first.

        The largest of each pixel wins, the earlier slot on a tie.

        Raises InputError for probabilities of another shape.
        """
        expected = (1, 1 + len(ids))
        if probabilities.ndim != 4 or tuple(probabilities.shape[:2]) != expected:
            raise InputError(
                f"probabilities have the shape {list(probabilities.shape)}; "
                f"expected [1, {1 + len(ids)}, h, w]"
            )
        slots = _resized(probabilities.detach().float(), size)[0].max(0).indices
        table = np.array([0, *ids], np.uint8)
        result: Picture = table[slots.cpu().numpy()]
        return result


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
