"""The pose of one person through a stream: a crop that follows, and moves at keyframes only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from resq_core.errors import InputError, OptionError
from resq_core.pipelines.base import Picture, StreamPipeline
from resq_core.stream import StepResult, Stream
from resq_core.tasks.boxes import Box, Crop
from resq_core.tasks.pictures import Size, check_picture
from resq_core.tasks.pose import MIN_SCORE, Pose, PoseTask, next_box

__all__ = ["PosePipeline"]


@dataclass(frozen=True, slots=True)
class _View:
    """Where the pipeline looks.

    size: (height, width) of the picture. given: the client's last box. box: the one in use. A
    box of None is the whole picture.
    """

    size: Size
    given: Box | None
    box: Box | None

    def resized(self, size: Size) -> _View:
        """The same parts of a picture of another size."""
        given = self.given and self.given.resized(self.size, size)
        return _View(size, given, self.box and self.box.resized(self.size, size))


class PosePipeline(StreamPipeline):
    """Pictures to the `Pose` of one person.

    Residuals mean something only while the crop stays where it is, so it moves at keyframes only.
    A keyframe that comes anyway lets it follow: it is then taken from the joints of the frame
    before (`next_box`), and where too few of them are confident it goes back to the client's last
    box, or to the whole picture without one. A box from the client makes the next frame a
    keyframe, with the reason `crop_moved`, unless the crop is there already. So does a picture of
    another size, with the reason `size_changed`; boxes then keep their place in the picture.

    The result's bit map covers the crop. With a precision of single frames (`W8A8`) every frame
    is a keyframe, and the crop follows at each.

    Args:
        stream: of a network that returns heatmaps [1, K, h/4, w/4], alone or first.
        task: pre- and post-processing.
        box: where the person is in the first frame; None for the whole picture.
        follow: whether the crop follows the person; otherwise only `move` moves it.
        min_score: from which a joint counts as confident.
        at: where to look in the first frame instead, as `Pose.box` of another pipeline's keyframe
            says; on that frame and those after it this one then gives what that one gave.

    Raises:
        OptionError: min_score is not finite.
    """

    def __init__(
        self,
        stream: Stream,
        task: PoseTask,
        box: Box | None = None,
        follow: bool = True,
        min_score: float = MIN_SCORE,
        at: Box | None = None,
    ) -> None:
        if not math.isfinite(min_score):
            raise OptionError(f"min_score is {min_score}; expected a finite value")
        super().__init__(stream)
        self._task = task
        self._follow, self._min_score = follow, min_score
        self._wanted, self._moved = box, True  # a box that waits for the next frame
        self._at = at or box
        self._view: _View | None = None
        self._crop: Crop | None = None
        self._pose: Pose | None = None

    @property
    def crop(self) -> Crop | None:
        """What the network saw of the last frame; None before the first."""
        return self._crop

    def move(self, box: Box | None) -> None:
        """Look for the person in this box from the next frame on, or in the whole picture.

        The last call before a frame counts. A box that has nothing of that frame in it costs
        that frame, which is refused, and is then forgotten.
        """
        self._wanted, self._moved, self._at = box, True, box

    def step(
        self,
        image: Picture,
        bit_map: bool = False,
        layers: bool = False,
        anchor: str | None = None,
    ) -> StepResult:
        """Run the next frame; the result's `output` is a `Pose`.

        Raises:
            InputError: the frame is unusable, or the client's box lies outside it; the stream
                goes on as if it had not come.
        """
        check_picture(image)
        size = (image.shape[0], image.shape[1])
        view = self._next_view(size, anchor)
        crop = self._task.crop_of(view.box or Box.whole(size))
        if self._view is not None and self._view.size != size:
            anchor = "size_changed"
        elif self._moved and crop != self._crop:
            anchor = "crop_moved"
        x = self._task.preprocess(image, crop)
        result = self._stream.step(x, bit_map=bit_map, layers=layers, anchor=anchor)
        self._view, self._crop, self._moved = view, crop, False
        heatmaps = result.output if isinstance(result.output, Tensor) else result.output[0]
        self._pose = self._task.decode(heatmaps, crop)
        return replace(result, output=self._pose)

    def _next_view(self, size: Size, anchor: str | None) -> _View:
        """Where to look in a picture of this size; changes nothing but a useless wish."""
        view = self._view
        if self._moved or view is None:
            self._check_wanted(size)
            return _View(size, self._wanted, self._at)
        changed = view.size != size
        if self._follow and (changed or anchor is not None or self._stream.anchor_due):
            found = self._pose and next_box(self._pose, view.size, self._min_score)
            view = replace(view, box=found or view.given)
        return view.resized(size) if changed else view

    def _check_wanted(self, size: Size) -> None:
        box = self._wanted
        if box is None or box.overlaps(size):
            return
        # without a view yet, the next frame starts from the whole picture
        self._wanted, self._moved, self._at = None, self._view is None, None
        height, width = size
        raise InputError(f"the box is {box}, outside the picture of {width}x{height} pixels")
