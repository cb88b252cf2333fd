"""Objects followed through a stream from their first masks, with STM.

On most frames encoder Q and the decoder run; on every few frames encoder M runs as well, and the
frame is remembered with the masks just found. Each part has a stream of its own, so its keyframe
clock counts the frames on which that part ran. What all objects share (encoder Q, and the decoder's
own work on its features) runs once; the rest has the objects as its batch.

The network's authors also read the frame just before, which would run encoder M on every frame;
here memory is what was remembered every `memory_every` frames, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resq_core.bops import Totals
from resq_core.errors import StreamClosedError
from resq_core.models.objects import object_masks, pad_to_stride
from resq_core.pipelines.base import Picture
from resq_core.pipelines.merging import MergedResult, merge
from resq_core.pipelines.object_memory import ObjectMemory
from resq_core.pipelines.part_stream import OBJECTS_CHANGED, PartStream
from resq_core.pipelines.quantized_stm import QuantizedStm, check_memory
from resq_core.pipelines.roster import Roster
from resq_core.pipelines.stm_clips import PART_NAMES, slot_probabilities
from resq_core.precision import Precision
from resq_core.stream import StepResult, StreamOptions
from resq_core.tasks.vos import Mask, VosTask, paint

__all__ = ["OBJECTS_CHANGED", "VosPipeline", "VosResult"]

_NOT_IN_PAPER = frozenset(
    {
        "Encoder_M.conv1",
        "Encoder_M.conv1_m",
        "Encoder_M.conv1_o",
        "Encoder_Q.conv1",
        "Decoder.pred2",
    }
)


@dataclass(frozen=True, slots=True)
class VosResult(MergedResult):
    """A frame's result; `output` is object ids uint8 [H, W] of the picture's size.

    Attributes:
        ids: objects in the order of `probabilities`.
        probabilities: float32 [1, 1 + N, h, w] at the network's size, of the background and of
            each object, as they are remembered: given masks where a frame came with some.
    """

    ids: tuple[int, ...]
    probabilities: Tensor


@dataclass(slots=True)
class _Frame:
    """One frame on its way through the parts.

    Attributes:
        x: float32 [1, 3, h, w].
        padded: the same with sides that are multiples of 16.
        given: masks that come with the frame, float32 [G, h, w], or None.
        bit_map, anchor: as asked of `step`.
        parts: results so far.
    """

    x: Tensor
    padded: Tensor
    given: Tensor | None
    bit_map: bool
    anchor: str | None
    parts: dict[str, StepResult] = field(default_factory=dict)


class VosPipeline:
    """Pictures to object ids uint8 [H, W] of the picture's size.

    Args:
        model: calibrated; shared with other streams.
        objects: masks bool [H, W] of the first frame by id, 1 to 32 of them; where they overlap,
            the higher id is on top.
        memory_every: frames from one remembered frame to the next, 1 to 1000. A frame with a new
            object is remembered too.
        memory_limit: frames remembered of each object, 1 to 1000: its first one, then the newest.
            A frame takes 2.5 KiB per object for every 16×16 pixels.
        period, reference, policy, threshold: of all parts; None takes the model's own.
        task: pre- and post-processing.

    Raises:
        OptionError: an option, an id or the number of objects is out of range.
        InputError: a mask is empty, hidden by others, or of another size than the first.
        CalibrationError: the model is not calibrated.
    """

    def __init__(
        self,
        model: QuantizedStm,
        objects: Mapping[int, Mask],
        *,
        memory_every: int = 5,
        memory_limit: int = 10,
        period: int | None = None,
        reference: str | None = None,
        policy: str | None = None,
        threshold: float | None = None,
        task: VosTask | None = None,
    ) -> None:
        check_memory(memory_every, memory_limit)
        self._heads, self._device = model.heads, model.device
        self._reader = model.net.Memory  # without weights: it reads on any device
        self._task, self._every = task or VosTask(), memory_every
        self._roster = Roster(objects)
        self._memory = ObjectMemory(memory_limit)
        self._parts = {
            name: PartStream(model.parts[name].stream(period, reference, policy, threshold))
            for name in PART_NAMES
        }
        self._totals, self._totals_paper = Totals(), Totals()
        self._closed = False

    @property
    def precision(self) -> Precision:
        """The bits that it runs at."""
        return self._parts["Encoder_Q"].stream.precision

    @property
    def options(self) -> StreamOptions:
        """Period, reference and policy in force for the next frame."""
        return self._parts["Encoder_Q"].stream.options

    @property
    def totals(self) -> Totals:
        """Running sums over all frames so far, every layer counted."""
        return self._totals

    @property
    def totals_paper(self) -> Totals:
        """The same without the layers that the paper's tables leave out."""
        return self._totals_paper

    @property
    def nbytes(self) -> int:
        """Bytes of the parts' state and of the memory."""
        return self._memory.nbytes + sum(p.stream.nbytes for p in self._parts.values())

    @property
    def objects(self) -> tuple[int, ...]:
        """Ids of the objects that the next frame will show."""
        return self._roster.ids

    def remembered(self, object_id: int) -> tuple[int, ...]:
        """Indices of the frames that are remembered of an object, in order."""
        return self._memory.frames(object_id)

    def add_object(self, object_id: int, mask: Mask) -> None:
        """Follow one more object, which the next frame shows at `mask`, bool [H, W].

        Raises:
            OptionError: the id is out of range or was used before, or there are too many objects.
            InputError: the mask is empty, no mask, or not of the stream's size.
            StreamClosedError: after `close`.
        """
        self._check_open()
        self._roster.add(object_id, mask)

    def remove_object(self, object_id: int) -> None:
        """Follow an object no more from the next frame on. Its id stays used.

        Raises:
            OptionError: it is not followed, or it is the only one.
            StreamClosedError: after `close`.
        """
        self._check_open()
        self._roster.remove(object_id)

    def step(
        self,
        image: Picture,
        bit_map: bool = False,
        layers: bool = False,
        anchor: str | None = None,
    ) -> VosResult:
        """Run the next frame.

        The first frame is remembered with the masks that were given and returns them; only encoder
        M runs. `is_anchor` and `reason` are encoder Q's, or encoder M's where only that one ran.

        Args:
            image: uint8 [H, W, 3] RGB, of one size throughout the stream.
            bit_map: also return where the encoders' bits went, on the padded frame. The decoder
                works on features, so that it has no place on that grid.
            layers: also return a report for each layer that ran, under its name in the network.
            anchor: a reason to run the parts that run as keyframes.

        Raises:
            InputError: the picture is unusable, or of another size than the stream's or the
                masks'; the stream goes on as if it had not come.
            StreamClosedError: after `close`.
        """
        self._check_open()
        x = self._task.preprocess(image).to(self._device)
        size = image.shape[0], image.shape[1]
        given = self._roster.given(size)
        masks = None
        if given:
            masks = self._task.encode_masks(list(given.values())).to(self._device)
        frame = _Frame(x, pad_to_stride(x), masks, bit_map, anchor)
        with torch.no_grad():
            probabilities = self._probabilities(frame)
            if self._totals.frames % self._every == 0 or given:
                self._remember(frame, probabilities)
        ids = np.zeros(size, np.uint8)
        if self._roster.followed:
            slots = 1 + len(self._roster.followed)
            ids = self._task.postprocess(probabilities[:, :slots], self._roster.followed, size)
        return self._result(frame, paint(ids, given), probabilities, size, layers)

    def update(self, period: int | None = None, threshold: float | None = None) -> None:
        """Change options of all parts from the next frame on.

        Raises:
            OptionError: out of range; nothing is changed then.
        """
        for part in self._parts.values():
            part.stream.update(period=period, threshold=threshold)

    def close(self) -> None:
        """Free state and memory at once; later steps raise `StreamClosedError`."""
        for part in self._parts.values():
            part.stream.close()
        self._memory.clear()
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StreamClosedError("the stream is closed; open a new one")

    def _run(self, name: str, frame: _Frame, inputs: Sequence[Tensor], ids: tuple[int, ...]) -> Any:
        wants_map = frame.bit_map and name != "Decoder"
        result = self._parts[name].step(inputs, ids, wants_map, frame.anchor)
        frame.parts[name] = result
        return result.output

    def _probabilities(self, frame: _Frame) -> Tensor:
        """[1, 1 + N, h, w] of objects that are followed, then of those that are given."""
        followed, given = self._roster.followed, frame.given
        if not followed:
            assert given is not None
            background = (1 - given.sum(0, keepdim=True)).clamp(0, 1)
            return torch.cat([background, given])[None]
        r4, r3, r2 = self._run("Encoder_Q", frame, [frame.padded], ())
        query = self._heads["KV_Q_r4"](r4)
        read = self._memory.read(self._reader, followed, *query)
        logits = self._run("Decoder", frame, [read, r3, r2], followed)
        covered = None if given is None else given.amax(0)
        found = slot_probabilities(logits, frame.x.shape[2:], covered)
        return found if given is None else torch.cat([found, given[None]], 1)

    def _remember(self, frame: _Frame, probabilities: Tensor) -> None:
        ids = self._roster.ids
        own, others = object_masks(pad_to_stride(probabilities), len(ids))
        features = self._run("Encoder_M", frame, [frame.padded, own, others], ids)
        self._memory.add(self._totals.frames, ids, *self._heads["KV_M_r4"](features))

    def _result(
        self,
        frame: _Frame,
        output: Picture,
        probabilities: Tensor,
        size: tuple[int, int],
        layers: bool,
    ) -> VosResult:
        self._roster.seen(size)
        self._memory.keep(self._roster.ids)
        lead = "Encoder_Q" if "Encoder_Q" in frame.parts else "Encoder_M"
        index = self._totals.frames
        merged = merge(frame.parts, lead, index, output, _NOT_IN_PAPER, layers)
        self._totals.add(merged.bops, merged.mean_bits, merged.is_anchor)
        self._totals_paper.add(merged.bops_paper, merged.mean_bits, merged.is_anchor)
        values = {f.name: getattr(merged, f.name) for f in fields(merged)}
        return VosResult(**values, ids=self._roster.ids, probabilities=probabilities)
