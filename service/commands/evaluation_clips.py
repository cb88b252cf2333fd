"""Clips without labels for `resq eval`, which the model's own float network labels."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from resq_core import QuantizedModel
from resq_core.errors import InputError, OptionError
from resq_core.evaluation import DataSet, LabelledClip
from resq_core.evaluation.datasets import Joints, PictureFiles, Protocol
from resq_core.evaluation.datasets.clips import check_folder, is_picture
from resq_core.pipelines import QuantizedStm
from resq_core.tasks import Box, Pose
from resq_core.tasks.pose import MIN_SCORE, next_box
from resq_core.zoo import ModelCard
from service.commands.evaluation_rows import Model, float_answer
from service.decoder import ClipError, open_clip
from service.pictures import Picture

__all__ = ["unlabelled_clips"]

_VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m4v")


def unlabelled_clips(root: Path, model: Model, card: ModelCard, period: int) -> DataSet:
    """Every video, and every folder of pictures, in a folder; or the folder's own pictures.

    Files that are neither are left alone. The labels are the outputs of the float network, made
    when asked for. A pose is looked for in the whole of the first frame, and at each keyframe
    where the float network found it on the frame before.

    Raises:
        InputError: there is no such folder, or nothing in it.
        OptionError: the model follows objects, which somebody has to point out.
    """
    if isinstance(model, QuantizedStm):
        raise OptionError(f"{card.name} follows objects; clips without masks have none to follow")
    check_folder(root, "clips")
    clips: list[LabelledClip] = []
    for name, frames in _frames(root):
        if card.task == "pose":
            poses = _FloatPoses(frames, model, card, period)
            clips.append(LabelledClip(name, frames, poses, poses.box))
        else:
            clips.append(LabelledClip(name, frames, _FloatMasks(frames, model, card)))
    if not clips:
        raise InputError(f"{root} holds no clip; expected videos, or folders of pictures")
    return DataSet.of("clips", root.name, card.task, Protocol.EVERY_FRAME, clips)


def _frames(root: Path) -> Iterator[tuple[str, Sequence[Picture]]]:
    for path in sorted(root.iterdir()):
        if path.is_dir():
            files = sorted(filter(is_picture, path.iterdir()))
            if files:
                yield path.name, PictureFiles(files)
        elif path.suffix.lower() in _VIDEOS:
            yield path.name, _VideoFrames(path)
    own = sorted(filter(is_picture, root.iterdir()))
    if own:
        yield root.name, PictureFiles(own)


class _VideoFrames(Sequence[Picture]):
    """A video's frames, decoded in order; going back decodes from the start again.

    Asking for one, or how many there are, raises InputError, naming the file, where it cannot be
    decoded or a frame is of another size than the first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._length: int | None = None
        self._open = ExitStack()
        self._index, self._last = -1, np.zeros((0, 0, 3), np.uint8)
        self._frames: Iterator[Picture] = iter(())

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(1 for _ in self._decoded(ExitStack()))
        return self._length

    def __getitem__(self, index: int) -> Picture:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index < self._index or self._index < 0:
            self._open.close()
            self._index, self._frames = -1, self._decoded(self._open)
        while self._index < index:
            self._last = next(self._frames)
            self._index += 1
        return self._last

    def _decoded(self, opened: ExitStack) -> Iterator[Picture]:
        try:
            with opened:
                first: tuple[int, ...] | None = None
                for frame in opened.enter_context(open_clip(self._path)):
                    first = first or frame.image.shape
                    if frame.image.shape != first:
                        raise InputError(
                            f"frame {frame.index} of {self._path} is {frame.image.shape[:2]} and "
                            f"the first one {first[:2]} (H, W)"
                        )
                    yield frame.image
        except ClipError as error:
            raise InputError(f"{self._path}: {error}") from error


class _FloatMasks(Mapping[int, Picture]):
    """The float network's class ids of each frame; compressed, since every row asks again."""

    def __init__(self, frames: Sequence[Picture], model: QuantizedModel, card: ModelCard) -> None:
        self._frames, self._answer = frames, float_answer(model, card, None)
        self._known: dict[int, tuple[tuple[int, ...], bytes]] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __getitem__(self, index: int) -> Picture:
        if index not in self._known:
            ids: Picture = self._answer(self._frames[index]).output
            self._known[index] = ids.shape, zlib.compress(ids.tobytes(), 1)
        shape, packed = self._known[index]
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)


class _FloatPoses(Mapping[int, Joints]):
    """The joints that the float network is sure of, with a crop that moves every T frames."""

    def __init__(
        self, frames: Sequence[Picture], model: QuantizedModel, card: ModelCard, period: int
    ) -> None:
        self._frames, self._model, self._card, self._period = frames, model, card, period
        self._known: list[Pose] = []
        self._boxes: dict[int, Box | None] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __getitem__(self, index: int) -> Joints:
        points = self._pose(index).keypoints
        return Joints(points[:, :2].astype(np.float64), points[:, 2] >= MIN_SCORE)

    def box(self, index: int) -> Box | None:
        """Where to look from the keyframe at `index` on; None for the whole picture."""
        if index not in self._boxes:
            found = None
            if index:
                size = self._frames[index].shape[:2]
                found = next_box(self._pose(index - 1), (size[0], size[1]))
            self._boxes[index] = found
        return self._boxes[index]

    def _pose(self, index: int) -> Pose:
        while len(self._known) <= index:
            now = len(self._known)
            box = self.box(now - now % self._period)
            answer = float_answer(self._model, self._card, box)
            self._known.append(answer(self._frames[now]).output)
        return self._known[index]
