from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from resq_core.errors import InputError, OptionError
from resq_core.tasks import VosTask, mask_from_box, masks_from_palette
from resq_core.tasks.vos import DAVIS_PALETTE, check_mask, check_object_id, check_objects, paint


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((8, 12), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_every_value_of_a_palette_picture_is_an_object() -> None:
    ids = np.zeros((4, 5), np.uint8)
    ids[1], ids[2], ids[3, 0] = 1, 3, 255
    masks = masks_from_palette(ids)
    assert list(masks) == [1, 3, 255]
    assert np.array_equal(paint(np.zeros_like(ids), masks), ids)
    assert list(masks_from_palette(ids, void=255)) == [1, 3]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.zeros((4, 4), np.uint8), OptionError, "0 objects; expected 1 to 32"),
        (np.arange(256, dtype=np.uint8).reshape(16, 16), OptionError, "255 objects"),
        (np.zeros((4, 4), np.int64), InputError, r"int64 \[4, 4\]; expected uint8"),
        (np.zeros((4, 4, 3), np.uint8), InputError, r"expected uint8 \[H, W\]"),
    ],
)
def test_palette_pictures_that_hold_no_objects(ids: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        masks_from_palette(ids)


def test_a_box_is_rounded_and_cut_to_the_picture() -> None:
    assert np.array_equal(mask_from_box((2, 1, 5, 3), (8, 12)), box(1, 3, 2, 5))
    assert np.array_equal(mask_from_box((-3.2, 6.4, 1e9, 99), (8, 12)), box(6, 8, 0, 12))


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((5, 1, 5, 3), "holds no pixel"),
        ((20, 1, 30, 3), "holds no pixel of a picture of 8x12"),
        ((0, 0, float("nan"), 3), "all finite"),
        ((0, 0, 3), "left, top, right, bottom"),
        ((0, 0, "x", 3), "no number"),
    ],
)
def test_boxes_that_are_none(sides: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mask_from_box(sides, (8, 12))


def test_later_objects_lie_on_top() -> None:
    masks = check_objects({2: box(0, 4, 0, 4), 1: box(2, 6, 2, 6)})
    assert list(masks) == [1, 2]
    assert not (masks[1] & masks[2]).any()
    assert masks[2].sum() == 16
    assert masks[1].sum() == 12


@pytest.mark.parametrize(
    ("objects", "error", "message"),
    [
        ({}, OptionError, "0 objects; expected 1 to 32"),
        (dict.fromkeys(range(1, 301), box(0, 1, 0, 1)), OptionError, "300 objects"),
        ({0: box(0, 1, 0, 1)}, OptionError, "object id is 0; expected a whole number from 1 to"),
        ({True: box(0, 1, 0, 1)}, OptionError, "object id is True"),
        ({1: box(0, 0, 0, 1)}, InputError, "mask of object 1 is empty"),
        ({1: box(0, 1, 0, 1), 2: np.ones((4, 4), bool)}, InputError, r"object 2 is \(4, 4\)"),
        ({1: np.ones((4, 4))}, InputError, "float64"),
        ({1: [[1]]}, InputError, "list"),
        ({1: box(0, 1, 0, 1), 2: box(0, 2, 0, 2)}, InputError, r"cover all of the objects \[1\]"),
    ],
)
def test_objects_that_cannot_be_followed(objects: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        check_objects(objects)


def test_masks_and_ids_one_at_a_time() -> None:
    mask = box(0, 1, 0, 1)
    copy = check_mask(1, mask.astype(np.uint8), (8, 12))
    assert copy.dtype == np.bool_
    assert check_mask(1, mask) is not mask
    with pytest.raises(InputError, match=r"object 1 is \(8, 12\) and the picture \(8, 13\)"):
        check_mask(1, mask, (8, 13))
    assert check_object_id(255) == 255
    for bad in (256, -1, 1.0, None):
        with pytest.raises(OptionError, match="object id"):
            check_object_id(bad)  # type: ignore[arg-type]


def test_the_davis_palette() -> None:
    assert DAVIS_PALETTE[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert DAVIS_PALETTE[8].tolist() == [64, 0, 0]
    assert DAVIS_PALETTE[20].tolist() == [0, 64, 128]
    assert DAVIS_PALETTE[255].tolist() == [224, 224, 192]
    assert len(np.unique(DAVIS_PALETTE, axis=0)) == 256


def test_pictures_keep_their_size_up_to_the_cap() -> None:
    task = VosTask(max_side=48)
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    x = task.preprocess(image)
    assert x.shape == (1, 3, 30, 40)
    assert torch.equal(x[0, :, 3, 5], torch.tensor(image[3, 5]).float() / 255)
    assert task.preprocess(np.zeros((300, 60, 3), np.uint8)).shape == (1, 3, 48, 10)
    assert task.network_size((1, 16_000)) == (1, 48)


def test_masks_go_to_the_network_as_the_picture_does() -> None:
    masks = [box(0, 4, 0, 6), box(4, 8, 0, 12)]
    assert torch.equal(VosTask().encode_masks(masks), torch.from_numpy(np.stack(masks)).float())
    wide = np.zeros((20, 40), bool)
    wide[10, 20] = True
    x = VosTask(max_side=16).encode_masks([wide])
    assert x.shape == (1, 8, 16)
    assert 0 < x.max() <= 1


def test_the_likeliest_slot_of_a_pixel_wins() -> None:
    p = torch.zeros(1, 3, 2, 2)
    p[0, :, 0, 0] = torch.tensor([0.2, 0.5, 0.3])
    p[0, :, 0, 1] = torch.tensor([0.2, 0.3, 0.5])
    ids = VosTask().postprocess(p, (7, 9), (2, 2))
    assert ids.dtype == np.uint8
    assert ids.tolist() == [[7, 9], [0, 0]]
    assert VosTask().postprocess(p, (7, 9), (4, 6)).shape == (4, 6)
    with pytest.raises(InputError, match=r"expected \[1, 2, h, w\]"):
        VosTask().postprocess(p, (7,), (2, 2))


@pytest.mark.parametrize("bad", [0, 15, 20_000, 64.0, None])
def test_caps_out_of_range(bad: Any) -> None:
    with pytest.raises(OptionError, match="max_side"):
        VosTask(max_side=bad)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_pictures_that_are_none(image: Any) -> None:
    with pytest.raises(InputError, match="picture"):
        VosTask().preprocess(image)
