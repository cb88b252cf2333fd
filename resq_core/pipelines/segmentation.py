"""Semantic segmentation of a stream."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from resq_core.pipelines.base import Picture, StreamPipeline
from resq_core.stream import StepResult, Stream
from resq_core.tasks.segmentation import SegmentationTask

__all__ = ["SegmentationPipeline"]


class SegmentationPipeline(StreamPipeline):
    """Pictures to class ids uint8 [H, W] of the picture's size.

    Args:
        stream: of a network that returns logits [1, K, h, w], alone or first.
        task: pre- and post-processing.
    """

    def __init__(self, stream: Stream, task: SegmentationTask) -> None:
        super().__init__(stream)
        self._task = task
        self._shape: tuple[int, ...] | None = None

    def step(
        self,
        image: Picture,
        bit_map: bool = False,
        layers: bool = False,
        anchor: str | None = None,
    ) -> StepResult:
        """Run the next frame; a picture of another size is an anchor.

        The network's input always has one size, so that only a change of the picture's own size
        tells that the old state means nothing any more.
        """
        x = self._task.preprocess(image)
        if self._shape not in (None, image.shape):
            anchor = "size_changed"
        result = self._stream.step(x, bit_map=bit_map, layers=layers, anchor=anchor)
        self._shape = image.shape
        logits = result.output if isinstance(result.output, Tensor) else result.output[0]
        height, width = image.shape[:2]
        return replace(result, output=self._task.postprocess(logits, (height, width)))
