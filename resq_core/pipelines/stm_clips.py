"""Inputs of STM's parts, seen in the float network: what each part is calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resq_core.calibrate import Clip
from resq_core.errors import CalibrationError, InputError
from resq_core.graph_cache import check_inputs
from resq_core.models.objects import aggregate, crop, object_masks, pad_to_stride
from resq_core.models.stm import STM
from resq_core.pipelines.base import Picture
from resq_core.pipelines.object_memory import ObjectMemory
from resq_core.tasks.vos import Mask, VosTask, check_mask, check_objects

__all__ = ["PART_NAMES", "VosClip", "part_clips", "slot_probabilities"]

PART_NAMES = ("Encoder_M", "Encoder_Q", "Decoder")
"""The parts that are quantized, by their names in the network."""

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False, slots=True)
class VosClip:
    """Video to calibrate on.

    Attributes:
        frames: float32 [1, 3, h, w] each, RGB from 0 to 1, all of one size.
        masks: float32 [N, h, w] from 0 to 1, the objects of the first frame.
    """

    frames: Sequence[Tensor]
    masks: Tensor

    @classmethod
    def of(
        cls, pictures: Iterable[Picture], objects: Mapping[int, Mask], task: VosTask | None = None
    ) -> VosClip:
        """From pictures uint8 [H, W, 3] and the first one's masks bool [H, W] by id.

        Raises:
            OptionError, InputError: objects or pictures that a stream would not take either.
        """
        task = task or VosTask()
        images = list(pictures)
        masks = check_objects(objects)
        if not images:
            raise InputError("the clip has no pictures; expected at least one")
        for object_id, mask in masks.items():
            check_mask(object_id, mask, images[0].shape[:2])
        return cls([task.preprocess(x) for x in images], task.encode_masks(list(masks.values())))


class _Lazy(Sequence[Inputs]):
    """A clip whose frames are made when asked for: features of a whole clip would fill memory."""

    def __init__(self, length: int, make: Callable[[int], Inputs]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Inputs:  # type: ignore[override]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._make(index % self._length)

    def __iter__(self) -> Iterator[Inputs]:
        return (self._make(i) for i in range(self._length))


def slot_probabilities(
    logits: Tensor, size: Sequence[int], covered: Tensor | None = None
) -> Tensor:
    """Probabilities of the background and of each object, which sum to 1 over the slots.

    Args:
        logits: the decoder's, float32 [N, 2, H, W] with sides that are multiples of 16.
        size: (h, w) of the frame before it was padded.
        covered: float32 [h, w] from 0 to 1, where other objects are given.

    Returns:
        float32 [1, 1 + N, h, w].
    """
    own = crop(F.softmax(logits, dim=1)[:, 1], size[0], size[1])
    if covered is not None:
        own = own * (1 - covered)
    return F.softmax(aggregate(own, 1 + own.shape[0]), dim=1)


def part_clips(
    net: STM, clips: Sequence[VosClip], memory_every: int, memory_limit: int
) -> dict[str, list[Clip]]:
    """Follow each clip's objects in the float network and note what every part gets.

    Args:
        net: in eval mode.
        clips: what to follow.
        memory_every, memory_limit: as in `VosPipeline`. Encoder M's clip holds the remembered
            frames only, and the last one where they would be fewer than two.

    Returns:
        By part, a clip for each of `clips`.

    Raises:
        CalibrationError: there are no clips.
        InputError: frames or masks of a wrong shape, size or type.
    """
    if not clips:
        raise CalibrationError("calibration got no clips; expected at least one")
    found: dict[str, list[Clip]] = {part: [] for part in PART_NAMES}
    with torch.no_grad():
        for clip in clips:
            _check(clip)
            for part, inputs in _follow(net, clip, memory_every, memory_limit).items():
                found[part].append(inputs)
    return found


def _follow(net: STM, clip: VosClip, every: int, limit: int) -> dict[str, Clip]:
    frames, objects = clip.frames, clip.masks.shape[0]
    ids = range(objects)
    memory = ObjectMemory(limit)
    remembered: list[Inputs] = []
    reads: list[Tensor] = []
    probabilities = torch.cat([torch.zeros_like(clip.masks[:1]), clip.masks])[None]
    for i, frame in enumerate(frames):
        x = pad_to_stride(frame)
        if i:
            r4, r3, r2 = net.Encoder_Q(x)
            reads.append(memory.read(net.Memory, ids, *net.KV_Q_r4(r4)))
            probabilities = slot_probabilities(net.Decoder(reads[-1], r3, r2), frame.shape[2:])
        last = i == len(frames) - 1
        if i % every == 0 or (last and len(remembered) < 2):
            inputs = (x, *object_masks(pad_to_stride(probabilities), objects))
            remembered.append(inputs)
            memory.add(i, ids, *net.KV_M_r4(net.Encoder_M(*inputs)))

    def decoder_inputs(i: int) -> Inputs:
        with torch.no_grad():
            _, r3, r2 = net.Encoder_Q(pad_to_stride(frames[i + 1]))
        return reads[i], r3, r2

    return {
        "Encoder_M": remembered,
        "Encoder_Q": _Lazy(len(frames), lambda i: (pad_to_stride(frames[i]),)),
        "Decoder": _Lazy(len(reads), decoder_inputs),
    }


def _check(clip: VosClip) -> None:
    if not len(clip.frames):
        raise InputError("a clip has no frames; expected at least one")
    shape = clip.frames[0].shape
    for i, frame in enumerate(clip.frames):
        check_inputs(frame)
        if frame.ndim != 4 or frame.shape[:2] != (1, 3) or frame.shape != shape:
            raise InputError(
                f"frame {i} of a clip has shape {list(frame.shape)}; expected [1, 3, h, w], the "
                "same for all"
            )
    check_inputs(clip.masks)
    if clip.masks.ndim != 3 or clip.masks.shape[1:] != shape[2:]:
        raise InputError(
            f"the masks of a clip have shape {list(clip.masks.shape)}; expected "
            f"[N, {shape[2]}, {shape[3]}]"
        )
