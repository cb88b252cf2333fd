"""Where frames become masks: the interface of an engine, and the one that runs in this process.

A session knows `Engine` and `EngineStream` only, and passes plain values and arrays: an engine on
another machine can stand in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from resq_core import QuantizedModel, zoo
from resq_core.errors import (
    CalibrationError,
    InputError,
    OptionError,
    PrecisionError,
    ResqError,
    UnknownModelError,
)
from resq_core.pipelines import Pipeline, PosePipeline, SegmentationPipeline
from resq_core.tasks import Box, Pose
from resq_core.zoo import ModelCard
from service.messages import Bops, PoseStart, StreamUpdate, VosStart
from service.pictures import Picture

__all__ = [
    "Engine",
    "EngineError",
    "EngineStream",
    "FrameError",
    "LocalEngine",
    "Model",
    "StepOutput",
    "StreamSpec",
    "StreamTotals",
]

_MAX_MODELS = 16


class EngineError(Exception):
    """Options that an engine refuses; `field` names the one at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class FrameError(Exception):
    """A frame that the model cannot run on; it costs itself."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a stream asks for; None takes the model's own."""

    model: str
    precision: str | None = None
    period: int | None = None
    threshold: float | None = None
    policy: str | None = None
    reference: str | None = None
    pose: PoseStart | None = None
    vos: VosStart | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One frame's result.

    Attributes:
        ids: class or object ids uint8 [H, W], of the frame's size; None of a pose.
        pose: joints and the box that was looked at; None of a mask.
        bit_map: float32 [h, w], bits 0 to 8, or None.
        layers: facts per layer, JSON-ready, or None.
        index, is_anchor, anchor_reason, bops, mean_bits, active_fraction, clipped_fraction: as on
            the wire.
    """

    ids: NDArray[np.uint8] | None
    pose: Pose | None
    index: int
    is_anchor: bool
    anchor_reason: str | None
    bops: Bops
    mean_bits: float
    active_fraction: float
    clipped_fraction: float
    bit_map: NDArray[np.float32] | None
    layers: list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class StreamTotals:
    """Running sums of a stream; `saving` against W8A8."""

    frames: int
    anchors: int
    bops: int
    policy_bops: int
    bops_w8a8: int
    bops_fp32: int
    saving: float
    mean_bits: float


class EngineStream(Protocol):
    """One stream's state in an engine. Its methods block; one thread at a time calls them."""

    @property
    def spec(self) -> StreamSpec:
        """The options in force, nothing None."""
        ...

    @property
    def totals(self) -> StreamTotals:
        """Sums so far."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of state held."""
        ...

    def step(self, image: Picture, bit_map: bool, layers: bool, anchor: str | None) -> StepOutput:
        """Run a frame; `anchor` is a reason to run it as a ResQ keyframe. Raises FrameError."""
        ...

    def update(self, changes: StreamUpdate) -> None:
        """Change options from the next frame on. Raises EngineError."""
        ...

    def close(self) -> None:
        """Free the state."""
        ...


class Engine(Protocol):
    """Models and streams. Methods may block and are called from several threads."""

    def models(self) -> tuple[ModelCard, ...]:
        """Cards of the models on offer."""
        ...

    def card(self, name: str) -> ModelCard:
        """One model's card. Raises EngineError for an unknown name."""
        ...

    def open(self, spec: StreamSpec) -> EngineStream:
        """Open a stream, loading its model at first use. Raises EngineError."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A model on offer: its card, and how to load it."""

    card: ModelCard
    load: Callable[[], QuantizedModel]


def _zoo_models() -> dict[str, Model]:
    return {n: Model(zoo.card(n), lambda n=n: zoo.load(n)) for n in zoo.names()}  # type: ignore[misc]


class LocalEngine:
    """Runs models in this process; weights are loaded once and shared by all streams.

    Args:
        models: what is on offer, by name; None takes the zoo.
        torch_threads: threads inside one frame; None leaves torch's own setting.
    """

    def __init__(
        self, models: Mapping[str, Model] | None = None, torch_threads: int | None = None
    ) -> None:
        self._models = dict(_zoo_models() if models is None else models)
        if not 1 <= len(self._models) <= _MAX_MODELS:
            raise ValueError(f"{len(self._models)} models given; expected 1 to {_MAX_MODELS}")
        self._loaded: dict[str, QuantizedModel] = {}
        self._lock = threading.Lock()
        if torch_threads is not None:
            torch.set_num_threads(torch_threads)

    def models(self) -> tuple[ModelCard, ...]:
        """Cards of the models on offer."""
        return tuple(model.card for model in self._models.values())

    def card(self, name: str) -> ModelCard:
        """One model's card. Raises EngineError for an unknown name."""
        if name not in self._models:
            known = ", ".join(self._models)
            raise EngineError("model", f"no model is called {name!r}; there are: {known}")
        return self._models[name].card

    def open(self, spec: StreamSpec) -> LocalStream:
        """Open a stream, loading its model at first use. Raises EngineError."""
        card = self.card(spec.model)
        for task, given in (("pose", spec.pose), ("vos", spec.vos)):
            if given is not None and card.task != task:
                raise EngineError(task, f"{card.name} does {card.task}; it takes no {task} options")
        try:
            return LocalStream(card.name, self._pipeline(card, spec))
        except ResqError as error:
            _refuse(error)

    def _pipeline(self, card: ModelCard, spec: StreamSpec) -> Pipeline:
        model = self._model(spec.model)
        if spec.precision is not None:
            model = model.with_precision(spec.precision)
        stream = model.stream(
            period=spec.period,
            reference=spec.reference,
            policy=spec.policy,
            threshold=spec.threshold,
        )
        if card.task == "pose":
            pose = spec.pose or PoseStart()
            box = None if pose.box is None else Box(*pose.box)
            return PosePipeline(stream, card.pose(), box, pose.follow)
        return SegmentationPipeline(stream, card.segmentation())

    def _model(self, name: str) -> QuantizedModel:
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._models[name].load()
            return self._loaded[name]


class LocalStream:
    """An `EngineStream` of this process."""

    def __init__(self, model: str, pipeline: Pipeline) -> None:
        self._model, self._pipeline = model, pipeline

    @property
    def spec(self) -> StreamSpec:
        """The options in force, nothing None."""
        options = self._pipeline.options
        return StreamSpec(
            model=self._model,
            precision=str(self._pipeline.precision),
            period=options.period,
            threshold=options.policy.threshold,
            policy=str(options.policy.form),
            reference=str(options.reference),
        )

    @property
    def totals(self) -> StreamTotals:
        """Sums so far."""
        t = self._pipeline.totals
        return StreamTotals(
            frames=t.frames,
            anchors=t.anchors,
            bops=t.bops,
            policy_bops=t.policy_bops,
            bops_w8a8=t.baseline_w8a8,
            bops_fp32=t.baseline_fp32,
            saving=t.saving,
            mean_bits=t.mean_bits,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of state held."""
        return self._pipeline.nbytes

    def step(self, image: Picture, bit_map: bool, layers: bool, anchor: str | None) -> StepOutput:
        """Run a frame; `anchor` is a reason to run it as a ResQ keyframe. Raises FrameError."""
        try:
            r = self._pipeline.step(image, bit_map, layers, anchor)
        except InputError as error:
            raise FrameError(str(error)) from error
        b, pose = r.bops, r.output if isinstance(r.output, Pose) else None
        return StepOutput(
            ids=r.output if pose is None else None,
            pose=pose,
            index=r.index,
            is_anchor=r.is_anchor,
            anchor_reason=r.reason,
            bops=Bops(frame=b.frame, policy=b.policy, w8a8=b.w8a8, fp32=b.fp32, saving=b.saving),
            mean_bits=r.mean_bits,
            active_fraction=r.active_fraction,
            clipped_fraction=r.clipped_fraction,
            bit_map=None if r.bit_map is None else r.bit_map.numpy(),
            layers=None if r.layers is None else [_facts(layer) for layer in r.layers],
        )

    def update(self, changes: StreamUpdate) -> None:
        """Change options from the next frame on. Raises EngineError."""
        pipeline = self._pipeline
        if changes.box is not None and not isinstance(pipeline, PosePipeline):
            raise EngineError("box", f"{self._model} is no pose model; it takes no box")
        try:
            pipeline.update(period=changes.period, threshold=changes.threshold)
            if changes.box is not None and isinstance(pipeline, PosePipeline):
                pipeline.move(Box(*changes.box))
        except ResqError as error:
            _refuse(error)

    def close(self) -> None:
        """Free the state."""
        self._pipeline.close()


def _facts(layer: Any) -> dict[str, Any]:
    names = ("name", "macs", "bops", "policy_bops", "mean_bits", "active_fraction")
    return {name: getattr(layer, name) for name in names}


def _refuse(error: ResqError) -> NoReturn:
    if isinstance(error, (PrecisionError, CalibrationError)):
        field = "precision"
    elif isinstance(error, UnknownModelError):
        field = "model"
    elif isinstance(error, OptionError):
        text = str(error)
        named = [f for f in ("period", "threshold", "policy", "reference", "box") if f in text]
        field = named[0] if named else "options"
    else:
        raise error
    raise EngineError(field, str(error)) from error
