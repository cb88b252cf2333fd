"""JHMDB: one person per clip, 15 joints on every frame, three splits into training and test.

ROOT/Rename_Images/ACTION/CLIP/00001.png
ROOT/joint_positions/ACTION/CLIP/joint_positions.mat    pos_img: [2, 15, frames], x and y from 1
ROOT/splits/ACTION_test_splitN.txt                      CLIP.avi 1 (training) or 2 (test)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resq_core.errors import InputError, OptionError
from resq_core.evaluation.datasets.clips import (
    DataSet,
    Joints,
    LabelledClip,
    PictureFiles,
    Protocol,
    check_folder,
    numbered,
    read_lines,
)
from resq_core.tasks.boxes import Box
from resq_core.tasks.keypoints import JHMDB15
from resq_core.tasks.pose import Pose, next_box

__all__ = ["SPLITS", "jhmdb_clips"]

SPLITS = ("1", "2", "3")

_TEST = "2"
_MOST_FRAMES = 10_000


def jhmdb_clips(root: Path, splits: Sequence[str] = SPLITS) -> DataSet:
    """The test clips of some splits; a score is the mean over them.

    Raises InputError for a folder, list or clip that is not there, and OptionError for another
    split, or where SciPy, which reads the joints, is not installed.
    """
    if not splits or not set(splits) <= set(SPLITS):
        raise OptionError(f"split is {', '.join(splits)!r}; expected some of {', '.join(SPLITS)}")
    _check_scipy()
    check_folder(root, "JHMDB")
    test = {split: _test_clips(root, split) for split in splits}
    names = sorted({name for names in test.values() for name in names})
    return DataSet(
        "jhmdb",
        ", ".join(splits),
        "pose",
        Protocol.EVERY_FRAME,
        [_clip(root, name) for name in names],
        test,
        joints=JHMDB15,
    )


def _test_clips(root: Path, split: str) -> list[str]:
    """ACTION/CLIP of all test clips of a split."""
    lists = sorted(check_folder(root / "splits", "splits").glob(f"*_test_split{split}.txt"))
    if not lists:
        raise InputError(f"{root / 'splits'} has no list ACTION_test_split{split}.txt")
    found: list[str] = []
    for path in lists:
        action = path.name.removesuffix(f"_test_split{split}.txt")
        for line in read_lines(path, "clips"):
            name, _, part = line.partition(" ")
            if part.strip() not in ("0", "1", _TEST) or Path(name).name != name:
                raise InputError(f"{path} has the line {line[:80]!r}; expected CLIP.avi and 1 or 2")
            if part.strip() == _TEST:
                found.append(f"{action}/{Path(name).stem}")
    if not found:
        raise InputError(f"the lists of split {split} in {root / 'splits'} name no test clip")
    return found


class _JointsOf(Mapping[int, Joints]):
    """The joints of a clip's frames, whose file is read with the first."""

    def __init__(self, path: Path, frames: PictureFiles) -> None:
        self._path, self._frames = path, frames
        self._positions: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __getitem__(self, index: int) -> Joints:
        if self._positions is None:
            self._positions = _positions(self._path, len(self._frames))
        height, width = self._frames.size
        points = self._positions[index]
        inside = (points >= -0.5) & (points < np.array([width, height]) - 0.5)
        return Joints(points, inside.all(1))

    def box(self, index: int) -> Box | None:
        """Where the person is: around the labelled joints, with room; None where none are."""
        label = self[index]
        pose = Pose(np.column_stack((label.points, label.labelled)), Box.whole(self._frames.size))
        return next_box(pose, self._frames.size)


def _clip(root: Path, name: str) -> LabelledClip:
    path = root / "joint_positions" / name / "joint_positions.mat"
    if not path.is_file():
        raise InputError(f"there are no joints of {name} at {path}")
    frames = PictureFiles(numbered(root / "Rename_Images" / name, "frames"))
    joints = _JointsOf(path, frames)
    return LabelledClip(name, frames, joints, joints.box)


def _check_scipy() -> None:
    try:
        import scipy.io  # noqa: F401  only whether it is there
    except ImportError as error:
        raise OptionError(
            "JHMDB keeps its joints in MATLAB files; install resq[eval], which has SciPy"
        ) from error


def _positions(path: Path, frames: int) -> NDArray[np.float64]:
    """Points [frames, 15, 2] from 0. Raises InputError, naming the file."""
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=["pos_img"]).get("pos_img")
    except Exception as error:  # a damaged file leads SciPy to any of them, ZeroDivisionError too
        raise InputError(f"{path} cannot be read as a MATLAB file: {error}") from error
    shape = None if found is None else list(found.shape)
    expected = [2, len(JHMDB15)]
    if found is None or found.dtype.kind not in "fiu" or shape is None or shape[:2] != expected:
        raise InputError(f"{path}: pos_img is {shape}; expected numbers [2, 15, frames]")
    if found.ndim != 3 or found.shape[2] != frames or frames > _MOST_FRAMES:
        raise InputError(f"{path}: pos_img is {shape} and its clip has {frames} frames")
    return np.ascontiguousarray(found.astype(np.float64).transpose(2, 1, 0)) - 1
