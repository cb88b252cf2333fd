"""Objects followed by STM in float: what its quantized streams are measured against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from resq_core.errors import InputError
from resq_core.models.stm import STM
from resq_core.pipelines.base import Picture
from resq_core.pipelines.quantized_stm import check_memory
from resq_core.tasks.vos import Mask, VosTask, check_objects, paint

__all__ = ["FloatVos"]


class FloatVos:
    """One clip; it remembers the frames that a `VosPipeline` with the same options does.

    Args:
        net: in eval mode.
        objects: masks bool [H, W] of the first frame by id, 1 to 32 of them.
        memory_every, memory_limit: as in `VosPipeline`.
        task: pre- and post-processing.

    Raises:
        OptionError, InputError: as `VosPipeline`.
    """

    def __init__(
        self,
        net: STM,
        objects: Mapping[int, Mask],
        memory_every: int = 5,
        memory_limit: int = 10,
        task: VosTask | None = None,
    ) -> None:
        check_memory(memory_every, memory_limit)
        self._net, self._task = net, task or VosTask()
        self._objects = check_objects(objects)
        self._every, self._limit = memory_every, memory_limit
        self._memory: list[tuple[Tensor, Tensor]] = []
        self._index = 0
        self.parts: tuple[str, ...] = ()
        """The network's parts that ran on the last frame."""

    def step(self, image: Picture) -> Picture:
        """Object ids uint8 [H, W] of the next picture uint8 [H, W, 3]; the first one's are given.

        Raises:
            InputError: the picture is unusable, or of another size than the masks.
        """
        x = self._task.preprocess(image)
        count, ids = len(self._objects), list(self._objects)
        size = (image.shape[0], image.shape[1])
        given = next(iter(self._objects.values())).shape
        if given != size:
            raise InputError(f"the picture is {size} and the masks are {given} (H, W)")
        with torch.no_grad():
            if self._memory:
                keys, values = (torch.cat(part, 3) for part in zip(*self._memory, strict=True))
                found = self._net.segment(x, keys, values, count).softmax(1)
                result = self._task.postprocess(found, ids, size)
                self.parts = ("Encoder_Q", "Decoder")
            else:
                masks = self._task.encode_masks(list(self._objects.values()))
                background = (1 - masks.sum(0, keepdim=True)).clamp(0, 1)
                found = torch.cat([background, masks])[None]
                result = paint(np.zeros(size, np.uint8), self._objects)
                self.parts = ()
            if self._index % self._every == 0:
                self._memory.append(self._net.memorize(x, found, count))
                if len(self._memory) > self._limit:
                    del self._memory[1]
                self.parts = (*self.parts, "Encoder_M")
        self._index += 1
        return result
