from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resq_core.errors import InputError
from resq_core.evaluation import CamVid


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of one split, three pictures of even colour, written out of order."""
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip_labels").mkdir()
    for index in (2, 0, 1):
        Image.new("RGB", (6, 4), (200, 50 * index, 0)).save(
            tmp_path / "clip" / f"f{index}.jpg", quality=95
        )
        Image.new("L", (6, 4), index).save(tmp_path / "clip_labels" / f"f{index}.png")
    return tmp_path


def test_pictures_and_labels_in_order(root: Path) -> None:
    clip = CamVid(root, "clip")
    assert len(clip) == 3
    assert clip.names == ("f0", "f1", "f2")
    items = list(clip)
    assert len(items) == 3
    for index, (picture, label) in enumerate(items):
        assert picture.shape == (4, 6, 3)
        assert picture.dtype == label.dtype == np.uint8
        assert np.abs(picture.astype(int) - (200, 50 * index, 0)).max() <= 3
        np.testing.assert_array_equal(label, np.full((4, 6), index))


def test_a_label_with_a_palette_gives_its_indices(root: Path) -> None:
    label = Image.new("P", (6, 4), 2)
    label.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7])
    label.save(root / "clip_labels" / "f0.png")
    np.testing.assert_array_equal(CamVid(root, "clip")[0][1], np.full((4, 6), 2))


def test_no_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data set folder at"):
        CamVid(tmp_path / "absent", "clip")


@pytest.mark.parametrize("split", ["absent", "clip_labels", "", "../clip"])
def test_no_split_lists_what_exists(root: Path, split: str) -> None:
    with pytest.raises(InputError, match=r"no split .* it has: clip$"):
        CamVid(root, split)


def test_a_split_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty_labels").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        CamVid(tmp_path, "empty")


def test_a_picture_without_a_label(root: Path) -> None:
    (root / "clip_labels" / "f1.png").unlink()
    with pytest.raises(InputError, match=r"f1\.jpg has no label at .*f1\.png"):
        CamVid(root, "clip")


@pytest.mark.parametrize("damaged", ["clip/f1.jpg", "clip_labels/f1.png"])
@pytest.mark.parametrize("keep", [0, 40])
def test_a_damaged_file_costs_only_itself(root: Path, damaged: str, keep: int) -> None:
    path = root / damaged
    path.write_bytes(path.read_bytes()[:keep])
    clip = CamVid(root, "clip")
    with pytest.raises(InputError, match=r"f1.* cannot be read as a picture"):
        clip[1]
    assert clip[2][0].shape == (4, 6, 3)


def test_a_label_of_another_kind_or_size(root: Path) -> None:
    Image.new("RGB", (6, 4)).save(root / "clip_labels" / "f0.png")
    Image.new("L", (4, 6)).save(root / "clip_labels" / "f1.png")
    clip = CamVid(root, "clip")
    with pytest.raises(InputError, match="expected one byte per pixel"):
        clip[0]
    with pytest.raises(InputError, match=r"is \(6, 4\) and its picture \(4, 6\)"):
        clip[1]


def test_a_picture_too_large_is_not_decoded(root: Path) -> None:
    Image.new("L", (10_000, 8_000)).save(root / "clip_labels" / "f0.png")
    with pytest.raises(InputError, match="10000x8000; at most"):
        CamVid(root, "clip")[0]


@pytest.mark.parametrize(("split", "count"), [("clip_15hz", 50), ("train", 367), ("test", 233)])
def test_the_real_splits(shared: Path, split: str, count: int) -> None:
    data = CamVid(shared / "data" / "camvid", split)
    assert len(data) == count
    picture, label = data[count - 1]
    assert picture.shape == (360, 480, 3)
    assert label.max() <= 11
