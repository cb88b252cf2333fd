"""Data sets as their makers lay them out, whole and damaged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from resq_core.errors import InputError, OptionError
from resq_core.evaluation import camvid_drives, cityscapes_snippets, davis_clips, jhmdb_clips
from resq_core.evaluation.datasets.cityscapes import train_ids
from resq_core.tasks import CITYSCAPES19, JHMDB15
from tests.resq_core.evaluation.layouts import (
    SIZE,
    joints,
    picture,
    save,
    square,
    write_camvid,
    write_cityscapes,
    write_davis,
    write_jhmdb,
    write_joints,
)


def test_camvid_is_cut_at_its_drives(tmp_path: Path) -> None:
    data = camvid_drives(write_camvid(tmp_path, {"0001TP": 3, "Seq05VD": 2}), "test")
    assert [(clip.name, len(clip.frames)) for clip in data.clips] == [("0001TP", 3), ("Seq05VD", 2)]
    assert data.splits == {"test": ["0001TP", "Seq05VD"]}
    clip = data.clips[0]
    np.testing.assert_array_equal(clip.frames[2], picture(2))
    np.testing.assert_array_equal(clip.labels[2] == 8, square(2))
    save(tmp_path / "testannot" / "0001TP_00001.png", np.full(SIZE, 12, np.uint8))
    with pytest.raises(InputError, match=r"0001TP_00001\.png holds the class 12; expected 0 to 10"):
        clip.labels[1]


def test_cityscapes_snippets_end_at_their_label(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path, {"aachen_000003": 19, "hamburg_000000": 1042})
    data = cityscapes_snippets(root, "val")
    assert data.classes is CITYSCAPES19
    for clip, name in zip(
        data.clips, ("aachen_000003_000019", "hamburg_000000_001042"), strict=True
    ):
        assert clip.name == name
        assert len(clip.frames) == 6
        assert list(clip.labels) == [5]
        np.testing.assert_array_equal(clip.frames[5], picture(5))
        label = clip.labels[5]
        assert (label[:2] == 255).all()
        np.testing.assert_array_equal(label[2:], np.where(square(5), 13, 0)[2:])


def test_a_cityscapes_snippet_has_at_most_19_frames_before_its_label(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path, {"ulm_000000": 30})
    folder = root / "leftImg8bit_sequence" / "val" / "ulm"
    for number in range(3, 25):
        save(folder / f"ulm_000000_{number:06}_leftImg8bit.png", picture(0))
    assert len(cityscapes_snippets(root, "val").clips[0].frames) == 20


def test_label_ids_become_train_ids() -> None:
    ids = np.arange(34, dtype=np.uint8)
    found = train_ids(ids)
    scored = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert found[scored].tolist() == list(range(19))
    assert set(np.delete(found, scored).tolist()) == {255}
    names = {7: "road", 19: "traffic light", 24: "person", 26: "car", 33: "bicycle"}
    for label_id, name in names.items():
        assert CITYSCAPES19.classes[found[label_id]] == name
    with pytest.raises(InputError, match="label id 34"):
        train_ids(np.array([7, 34], np.uint8))


def test_davis_2017_has_objects_by_their_ids(tmp_path: Path) -> None:
    data = davis_clips(write_davis(tmp_path, {"b": 4, "a": 3}), 2017, "val")
    assert [clip.name for clip in data.clips] == ["b", "a"]
    clip = data.clips[0]
    given = clip.start(0)
    assert list(given) == [1, 2]
    np.testing.assert_array_equal(given[1] | given[2], square(0))
    assert clip.labels[3].objects == (1, 2)
    void = clip.labels[1].ids.copy()
    void[40:] = 255
    save(tmp_path / "Annotations" / "480p" / "b" / "00001.png", void)
    assert set(np.unique(clip.labels[1].ids)) == {0, 1, 2}


@pytest.mark.parametrize("own_list", [False, True])
def test_davis_2016_has_one_object(tmp_path: Path, own_list: bool) -> None:
    root = write_davis(tmp_path, {"cow": 3}, 2016)
    if own_list:
        (root / "ImageSets" / "2016").rename(root / "ImageSets" / "480p")
        lines = [
            f"/JPEGImages/480p/cow/{i:05}.jpg /Annotations/480p/cow/{i:05}.png" for i in range(3)
        ]
        (root / "ImageSets" / "480p" / "val.txt").write_text("\n".join(lines))
    clip = davis_clips(root, 2016, "val").clips[0]
    assert (clip.name, len(clip.frames), clip.labels[2].objects) == ("cow", 3, (1,))
    np.testing.assert_array_equal(clip.labels[2].ids == 1, square(2))


def test_the_shared_davis_clips(shared: Path, tmp_path: Path) -> None:
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / name).symlink_to(shared / "data" / "davis16" / name)
    (tmp_path / "ImageSets" / "2016").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2016" / "val.txt").write_text("dog\ncamel\n")
    data = davis_clips(tmp_path, 2016, "val")
    assert [len(clip.frames) for clip in data.clips] == [60, 90]
    assert data.clips[0].frames[59].shape == (480, 854, 3)
    assert data.clips[0].labels[59].ids.sum() > 1000


def test_jhmdb_reads_joints_from_one_and_boxes_around_them(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path, {"run/a": (3, "212"), "run/b": (2, "221"), "sit/c": (2, "112")})
    data = jhmdb_clips(root)
    assert data.joints is JHMDB15
    assert {split: list(names) for split, names in data.splits.items()} == {
        "1": ["run/a", "run/b"],
        "2": ["run/b"],
        "3": ["run/a", "sit/c"],
    }
    clip = data.clips[0]
    np.testing.assert_allclose(clip.labels[2].points, joints(3)[2])
    assert clip.labels[2].labelled.all()
    box = clip.start(2)  # joints from (6, 4) to (46, 40), a tenth of 40 pixels around them
    assert (box.x, box.y, box.width, box.height) == (2, 0, 48, 44)
    assert [clip.name for clip in jhmdb_clips(root, ["2"]).clips] == ["run/b"]
    with pytest.raises(OptionError, match=r"split is '4'; expected some of 1, 2, 3"):
        jhmdb_clips(root, ["4"])


def test_joints_outside_the_picture_are_not_labelled(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path, {"run/a": (2, "222")})
    points = joints(2)
    points[0, 0], points[0, 1], points[0, 2] = (-0.6, 5), (63.4, 5), (5, 47.5)
    points[1, :] = np.nan
    write_joints(root, "run/a", points)
    clip = jhmdb_clips(root).clips[0]
    assert np.flatnonzero(~clip.labels[0].labelled).tolist() == [0, 2]
    assert not clip.labels[1].labelled.any()
    assert not clip.labels[1].scored
    assert clip.start(1) is None


def test_matlab_files_that_hold_something_else(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path, {"run/a": (2, "222")})
    path = root / "joint_positions" / "run" / "a" / "joint_positions.mat"
    whole = path.read_bytes()
    contents: list[tuple[Callable[[], object], str]] = [
        (lambda: path.write_bytes(whole[:200]), "cannot be read as a MATLAB file"),
        (lambda: path.write_bytes(b""), "cannot be read as a MATLAB file"),
        (lambda: path.write_bytes(b"MATLAB" * 100), "cannot be read as a MATLAB file"),
        (lambda: savemat(path, {"other": np.ones(3)}), "pos_img is None"),
        (lambda: savemat(path, {"pos_img": np.ones((2, 14, 2))}), r"pos_img is \[2, 14, 2\]"),
        (lambda: savemat(path, {"pos_img": "words"}), "pos_img is"),
        (lambda: write_joints(root, "run/a", joints(3)), "its clip has 2 frames"),
    ]
    for write, words in contents:
        write()
        with pytest.raises(InputError, match=rf"joint_positions\.mat.*{words}"):
            jhmdb_clips(root).clips[0].labels[0]
    generator = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 3):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        with suppress(InputError):  # and no other error
            assert jhmdb_clips(root).clips[0].labels[0].points.shape == (15, 2)


def absent(path: str) -> Callable[[Path], None]:
    def remove(root: Path) -> None:
        found = list(root.glob(path))
        assert found, path
        for each in found:
            each.rename(each.with_name("gone"))

    return remove


def written(path: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / path).write_text(text) and None


MISTAKES = [
    ("camvid", absent("testannot"), "has no split 'test' with labels"),
    ("camvid", absent("testannot/0001TP_00001.png"), r"0001TP_00001\.png has no label"),
    ("cityscapes", absent("gtFine/val"), "no folder of labels at .*val"),
    ("cityscapes", absent("leftImg8bit_sequence"), "no folder of sequences at .*val"),
    ("cityscapes", absent("gtFine/val/*/*_labelIds.png"), "holds no label; expected"),
    ("cityscapes", absent("leftImg8bit_sequence/val/*/*_000019_*"), "000019.* has no frame at"),
    ("davis", absent("ImageSets/2017/val.txt"), r"no list of clips at .*val\.txt"),
    ("davis", written("ImageSets/2017/val.txt", ""), "is empty; expected a list of clips"),
    ("davis", written("ImageSets/2017/val.txt", "a\n../a\n"), r"names '\.\./a'"),
    ("davis", written("ImageSets/2017/val.txt", "a\nother\n"), "no folder of frames at .*other"),
    ("davis", absent("Annotations/480p/a/00001.png"), "its frames differ at .*00001"),
    ("davis", absent("Annotations/480p/a"), "no folder of masks at .*a"),
    ("jhmdb", absent("splits"), "no folder of splits at"),
    ("jhmdb", absent("splits/*split2.txt"), r"no list ACTION_test_split2\.txt"),
    ("jhmdb", written("splits/run_test_split1.txt", "a.avi 7"), "has the line 'a.avi 7'"),
    ("jhmdb", written("splits/run_test_split1.txt", "a.avi 1"), "name no test clip"),
    ("jhmdb", absent("joint_positions/run/a"), "no joints of run/a at"),
    ("jhmdb", absent("Rename_Images/run/a"), "no folder of frames at .*a"),
]


@pytest.mark.parametrize(("layout", "damage", "words"), MISTAKES)
def test_what_is_missing_is_named(
    layout: str, damage: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    writers: dict[str, tuple[Callable[[], Path], Callable[[Path], object]]] = {
        "camvid": (
            lambda: write_camvid(tmp_path, {"0001TP": 2}),
            lambda root: camvid_drives(root, "test"),
        ),
        "cityscapes": (
            lambda: write_cityscapes(tmp_path, {"ulm_000000": 19}),
            lambda root: cityscapes_snippets(root, "val"),
        ),
        "davis": (
            lambda: write_davis(tmp_path, {"a": 3}),
            lambda root: davis_clips(root, 2017, "val"),
        ),
        "jhmdb": (lambda: write_jhmdb(tmp_path, {"run/a": (2, "222")}), jhmdb_clips),
    }
    write, read = writers[layout]
    root = write()
    read(root)
    damage(root)
    with pytest.raises(InputError, match=words):
        read(root)


def test_a_frame_of_another_size_or_damaged_costs_only_itself(tmp_path: Path) -> None:
    clip = davis_clips(write_davis(tmp_path, {"a": 5}), 2017, "val").clips[0]
    files = tmp_path / "JPEGImages" / "480p" / "a"
    save(files / "00001.jpg", picture(1, (40, 64)))
    (files / "00002.jpg").write_bytes(b"no picture")
    save(tmp_path / "Annotations" / "480p" / "a" / "00003.png", np.zeros((40, 64), np.uint8))
    save(tmp_path / "Annotations" / "480p" / "a" / "00004.png", np.full(SIZE, 7, np.uint8))
    with pytest.raises(InputError, match=r"00001\.jpg is \(40, 64\) and its clip's first frame"):
        clip.frames[1]
    with pytest.raises(InputError, match=r"00002\.jpg cannot be read"):
        clip.frames[2]
    with pytest.raises(InputError, match=r"00003\.png is \(40, 64\) and its picture \(48, 64\)"):
        clip.labels[3]
    with pytest.raises(InputError, match=r"00004\.png shows the objects \[7\]; .* has \[1, 2\]"):
        clip.labels[4]
    assert clip.frames[3].shape == (*SIZE, 3)


@pytest.mark.parametrize("objects", [0, 33])
def test_a_first_mask_without_objects_or_with_too_many(objects: int, tmp_path: Path) -> None:
    clip = davis_clips(write_davis(tmp_path, {"a": 3}), 2017, "val").clips[0]
    ids = np.resize(np.arange(objects + 1, dtype=np.uint8), SIZE)
    save(tmp_path / "Annotations" / "480p" / "a" / "00000.png", ids)
    with pytest.raises(InputError, match=rf"00000\.png shows {objects} objects; .* 1 to 32"):
        clip.start(0)
