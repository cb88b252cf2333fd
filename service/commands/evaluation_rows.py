"""The ways of running a model that `resq eval` compares: in float, per frame, held, and ResQ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from resq_core import Precision, QuantizedModel
from resq_core.errors import CalibrationError, PrecisionError
from resq_core.evaluation import Answer, Row
from resq_core.experiments.steps import (
    FLOAT_BITS,
    frame_precision,
    hold_precision,
    keyframe_precision,
)
from resq_core.models.objects import pad_to_stride
from resq_core.pipelines import (
    FloatVos,
    Pipeline,
    PosePipeline,
    QuantizedStm,
    SegmentationPipeline,
    VosPipeline,
)
from resq_core.tasks import Box, PoseTask, VosTask
from resq_core.tasks.vos import Mask
from resq_core.zoo import ModelCard
from service.pictures import Picture

__all__ = ["Rows", "float_answer"]

Model = QuantizedModel | QuantizedStm
Answerer = Callable[[Picture], Answer]


@dataclass(frozen=True)
class Rows:
    """What runs, and what cannot.

    Attributes:
        rows: `float` (32×32 bits), `keyframe` (every frame at the keyframe's bits), `frame`
            (frame quantization at the residual's bits, where those are others), `hold` (the
            keyframe's output repeated) and `resq`.
        frame: the precision of the row `frame`.
        left_out: rows that the model is not calibrated for, with the reason.
        backend: which one runs the row `resq`, for people.
    """

    rows: tuple[Row, ...]
    frame: Precision
    left_out: Mapping[str, str]
    backend: str

    @classmethod
    def of(
        cls, model: Model, card: ModelCard, precision: Precision, period: int, **options: Any
    ) -> Rows:
        """Rows of a model.

        Args:
            model, card: of any task.
            precision: of the row `resq`; one of frame quantization has the row `frame` alone.
            period: T of `hold` and `resq`.
            options: reference, policy and threshold of `resq`; None takes the model's own.

        Raises:
            OptionError: an option is out of range.
            PrecisionError, CalibrationError: the model does not run at it.
        """
        try:
            resq = model.with_precision(precision)
        except (PrecisionError, CalibrationError) as error:
            raise type(error)(card.offers(str(precision), error)) from error
        resq.options.but(period, **options)  # out of range: said before anything runs
        backend = _backend(resq, card)
        rows = [Row("float", _float_opener(model, card), alone=True)]
        if precision.is_frame:
            rows.append(Row("frame", _opener(resq, card, period), alone=True))
            return cls(tuple(rows), precision, {}, backend)
        keyframe, frame = keyframe_precision(precision), frame_precision(precision)
        hold = hold_precision(precision)
        left_out: dict[str, str] = {}
        for name, bits in (("keyframe", keyframe), ("frame", frame), ("hold", hold)):
            if name == "frame" and frame == keyframe:
                continue
            try:
                own = model.with_precision(bits)
            except CalibrationError as error:
                left_out[name] = str(error)
            else:
                rows.append(Row(name, _opener(own, card, period), bits.is_frame))
        rows.append(Row("resq", _opener(resq, card, period, **options)))
        return cls(tuple(rows), frame, left_out, backend)


def float_answer(model: QuantizedModel, card: ModelCard, start: Box | None) -> Answerer:
    """Frames by the network in float, counted as 32×32 bits."""
    task = card.segmentation() if card.task == "segmentation" else card.pose()

    def answer(image: Picture) -> Answer:
        size = (image.shape[0], image.shape[1])
        if isinstance(task, PoseTask):
            crop = task.crop_of(start or Box.whole(size))
            x = task.preprocess(image, crop)
            output: Any = task.decode(_first(model.float(x)), crop)
        else:
            x = task.preprocess(image)
            output = task.postprocess(_first(model.float(x)), size)
        return Answer(
            output, sum(model.macs(x).values()) * FLOAT_BITS**2, 0, FLOAT_BITS, is_anchor=True
        )

    return answer


def _float_opener(model: Model, card: ModelCard) -> Callable[[Any], Answerer]:
    if isinstance(model, QuantizedStm):
        return partial(_float_objects, model, card)
    return partial(float_answer, model, card)


def _float_objects(model: QuantizedStm, card: ModelCard, objects: Mapping[int, Mask]) -> Answerer:
    task = VosTask(max(card.input_size))
    stream = FloatVos(model.net, objects, task=task)

    def answer(image: Picture) -> Answer:
        output = stream.step(image)
        layers = model.macs(task.network_size(image.shape[:2]), len(objects))
        macs = sum(n for name, n in layers.items() if name.partition(".")[0] in stream.parts)
        return Answer(output, macs * FLOAT_BITS**2, 0, FLOAT_BITS, is_anchor=True)

    return answer


def _opener(
    model: Model, card: ModelCard, period: int, **options: Any
) -> Callable[[Any], Answerer]:
    def open_stream(start: Any) -> Answerer:
        return _answers(_pipeline(model, card, start, period=period, **options))

    return open_stream


def _pipeline(model: Model, card: ModelCard, start: Any, **options: Any) -> Pipeline:
    if isinstance(model, QuantizedStm):
        return VosPipeline(model, start, task=VosTask(max(card.input_size)), **options)
    stream = model.stream(**options)
    if card.task == "pose":
        return PosePipeline(stream, card.pose(), start, follow=False)
    return SegmentationPipeline(stream, card.segmentation())


def _answers(pipeline: Pipeline) -> Answerer:
    def answer(image: Picture) -> Answer:
        r = pipeline.step(image)
        return Answer(r.output, r.bops.frame, r.bops.policy, r.mean_bits, r.is_anchor)

    return answer


def _first(output: Any) -> Tensor:
    """Of a network that returns one tensor or several, the one that its task reads."""
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def _backend(model: Model, card: ModelCard) -> str:
    frame = torch.zeros(1, 3, *card.input_size)
    if isinstance(model, QuantizedStm):
        return model.parts["Encoder_Q"].serving(pad_to_stride(frame)).backend
    return model.serving(frame).backend
