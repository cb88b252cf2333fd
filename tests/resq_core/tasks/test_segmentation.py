from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from resq_core.errors import InputError, OptionError
from resq_core.tasks import SegmentationTask

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def task(**changes: Any) -> SegmentationTask:
    options: dict[str, Any] = {
        "classes": ("a", "b", "c"),
        "palette": COLOURS,
        "input_size": (12, 16),
        "mean": MEAN,
        "std": STD,
    }
    return SegmentationTask(**{**options, **changes})


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_picture_of_the_right_size_is_only_normalised() -> None:
    image = picture(12, 16)
    x = task().preprocess(image)
    assert x.shape == (1, 3, 12, 16)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    want = ((image / 255 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)
    np.testing.assert_allclose(x[0].numpy(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (24, 32), (7, 300), (300, 5)])
def test_any_size_becomes_the_input_size_and_flat_stays_flat(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), (10, 120, 250), np.uint8)
    x = task().preprocess(image)
    assert x.shape == (1, 3, 12, 16)
    for channel, value in enumerate((10, 120, 250)):
        want = (value / 255 - MEAN[channel]) / STD[channel]
        assert (x[0, channel] - want).abs().max() < 1e-5


def test_resizing_keeps_a_ramp_and_its_direction() -> None:
    ramp = np.repeat(np.arange(0, 240, 5, dtype=np.uint8)[None, :, None], 36, 0).repeat(3, 2)
    plain = task(mean=(0, 0, 0), std=(1, 1, 1)).preprocess(ramp)[0, 0] * 255
    want = torch.arange(5.0, 240, 15)  # the middle of each three columns
    assert (plain[:, 1:-1] - want[1:-1]).abs().max() <= 1
    assert torch.equal(plain[0], plain[-1])


def test_shrinking_averages_fine_stripes() -> None:
    stripes = np.zeros((96, 128, 3), np.uint8)
    stripes[:, ::2] = 200
    x = task(mean=(0, 0, 0), std=(1, 1, 1)).preprocess(stripes) * 255
    assert (x[..., 1:-1] - 100).abs().max() < 8


def test_read_only_and_mirrored_pictures_are_accepted_and_left_alone() -> None:
    image = picture(12, 16)
    image.flags.writeable = False
    before = image.copy()
    x = task().preprocess(image)
    mirrored = task().preprocess(image[:, ::-1])
    assert torch.equal(mirrored, x.flip(-1))
    x.zero_()
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 16_385, 3), np.uint8),
    ],
)
def test_what_is_not_a_picture(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="picture"):
        task().preprocess(bad)
    with pytest.raises(InputError, match="picture"):
        task().overlay(bad, np.zeros(bad.shape[:2], np.uint8))


def test_the_largest_logit_wins() -> None:
    ids = np.random.default_rng(1).integers(0, 3, (6, 8))
    logits = torch.nn.functional.one_hot(torch.tensor(ids), 3).permute(2, 0, 1)[None].float()
    got = task().postprocess(logits, (6, 8))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, ids)


def test_logits_are_resized_before_the_largest_is_taken() -> None:
    # One row, two columns: class 1 leads by 3 on the left, class 0 by 1 on the right. Half-pixel
    # bilinear weights put the change of sides three quarters of the way between their centres.
    logits = torch.tensor([[[[0.0, 1.0]], [[3.0, 0.0]], [[-9.0, -9.0]]]])
    got = task().postprocess(logits, (2, 16))
    np.testing.assert_array_equal(got, np.repeat([[1] * 10 + [0] * 6], 2, 0))


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 4, 4), (1, 2, 4, 4)])
def test_logits_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \[1, 3, h, w\]"):
        task().postprocess(torch.zeros(shape), (4, 4))


@pytest.mark.parametrize("size", [(0, 4), (4, 16_385), (4,)])
def test_a_mask_size_out_of_range(size: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="size"):
        task().postprocess(torch.zeros(1, 3, 4, 4), size)  # type: ignore[arg-type]


def test_colours_by_id_and_black_where_there_is_no_class() -> None:
    ids = np.array([[0, 1, 2, 3, 255]], np.uint8)
    got = task().colorize(ids)
    np.testing.assert_array_equal(got, [[*COLOURS, (0, 0, 0), (0, 0, 0)]])


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_overlay_mixes_within_one_level(alpha: float) -> None:
    image = picture(5, 7)
    ids = np.random.default_rng(2).integers(0, 4, (5, 7), dtype=np.uint8)
    got = task().overlay(image, ids, alpha)
    want = (1 - alpha) * image + alpha * task().colorize(ids).astype(float)
    assert got.dtype == np.uint8
    assert np.abs(got - want).max() <= (0.5 if alpha else 0)


def test_overlay_refuses_another_size_and_a_bad_alpha() -> None:
    image = picture(5, 7)
    with pytest.raises(InputError, match=r"mask is \(5, 6\) and the picture \(5, 7\)"):
        task().overlay(image, np.zeros((5, 6), np.uint8))
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(OptionError, match="alpha"):
            task().overlay(image, np.zeros((5, 7), np.uint8), alpha)
    with pytest.raises(InputError, match="mask is int64"):
        task().colorize(np.zeros((5, 7), np.int64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ()}, "0 classes"),
        ({"palette": COLOURS[:2]}, "2 colours given for 3 classes"),
        ({"palette": (*COLOURS[:2], (0, 0, 256))}, "colour 2"),
        ({"input_size": (0, 16)}, "input_size"),
        ({"input_size": (12, 20_000)}, "input_size"),
        ({"mean": (0.0, 0.0)}, "mean"),
        ({"mean": (0.0, 0.0, float("nan"))}, "mean"),
        ({"std": (1.0, 1.0, 0.0)}, "std"),
    ],
)
def test_options_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        task(**changes)
