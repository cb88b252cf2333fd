"""The engine of this process; the one file that runs models."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from resq_core import Precision, QuantizedModel, zoo
from resq_core.backends import Backend, Serving
from resq_core.errors import (
    BackendError,
    CalibrationError,
    InputError,
    OptionError,
    PrecisionError,
    ResqError,
    UnknownModelError,
)
from resq_core.naming import not_known
from resq_core.pipelines import Pipeline, PosePipeline, QuantizedStm, SegmentationPipeline
from resq_core.tasks import Box, Pose
from resq_core.zoo import ModelCard, Shelf
from service.engine import (
    Answer,
    Ask,
    EngineError,
    FrameError,
    Kept,
    StepOutput,
    StreamSpec,
    StreamTotals,
    WorkerLost,
)
from service.messages import Bops, PoseStart, StreamUpdate, VosStart
from service.objects import ObjectStream
from service.pictures import Limits, Picture
from service.results import encode_blobs

__all__ = ["LocalEngine", "LocalStream", "Model", "open_shelves", "shelf_engine", "shelf_models"]

_MAX_MODELS = 64
_MAX_VARIANTS = 16


@dataclass(frozen=True, slots=True)
class Model:
    """A model on offer: its card, and how to load it."""

    card: ModelCard
    load: Callable[[], QuantizedModel | QuantizedStm]


def open_shelves(folder: Path | None) -> list[Shelf]:
    """The package's shelf, and the user's own where there is one.

    Raises:
        FileNotFoundError: the folder is not there.
    """
    if folder is None:
        return [zoo.PACKAGED]
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of models at {folder}")
    return [zoo.PACKAGED, Shelf(folder)]


def shelf_models(
    *shelves: Shelf, backend: Backend = Backend.AUTO, device: str = "cpu"
) -> dict[str, Model]:
    """The models of some shelves by name; where two have one of a name, the later shelf's.

    Args:
        shelves: any number.
        backend: what shall run them.
        device: where; see `resq_core.device`.

    Raises:
        SavedModelError: a card cannot be read.
    """
    return {
        name: Model(shelf.card(name), partial(_load, shelf, name, backend, device))
        for shelf in shelves
        for name in shelf.names()
    }


def _load(shelf: Shelf, name: str, backend: Backend, device: str) -> QuantizedModel | QuantizedStm:
    if shelf.card(name).task == "vos":
        return QuantizedStm.load(shelf.path(name), backend, device)
    return shelf.load(name, backend=backend, device=device)


def shelf_engine(
    folder: Path | None,
    backend: Backend,
    device: str,
    torch_threads: int,
    max_active: float | None,
) -> LocalEngine:
    """An engine of the package's models and those of a folder.

    Args:
        folder: as of `open_shelves`.
        backend: what shall run them.
        device: where; see `resq_core.device`.
        torch_threads, max_active: as of `LocalEngine`.

    Raises:
        FileNotFoundError, SavedModelError: as `open_shelves`, `shelf_models`.
    """
    models = shelf_models(*open_shelves(folder), backend=backend, device=device)
    return LocalEngine(models, torch_threads, max_active)


class LocalEngine:
    """Runs models in this process; weights are loaded once and shared by all streams.

    Args:
        models: what is on offer, by name; None takes the zoo.
        torch_threads: threads inside one frame; None leaves torch's own setting.
        max_active: of streams of one network, not of an STM; None takes the model's own.
    """

    def __init__(
        self,
        models: Mapping[str, Model] | None = None,
        torch_threads: int | None = None,
        max_active: float | None = None,
    ) -> None:
        self._models = dict(shelf_models(zoo.PACKAGED) if models is None else models)
        if not 1 <= len(self._models) <= _MAX_MODELS:
            raise ValueError(f"{len(self._models)} models given; expected 1 to {_MAX_MODELS}")
        self._max_active = max_active
        self._loaded: dict[str, QuantizedModel | QuantizedStm] = {}
        self._variants: OrderedDict[tuple[str, str], QuantizedModel | QuantizedStm] = OrderedDict()
        self._serving: dict[str, Serving] = {}
        self._lock = threading.Lock()
        if torch_threads is not None:
            torch.set_num_threads(torch_threads)

    @property
    def slots(self) -> None:
        """None: the threads of this server infer."""
        return None

    @property
    def clips(self) -> int:
        """One clip at a time."""
        return 1

    def share(self, streams: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """No other server uses this engine."""
        return {}

    def close(self) -> None:
        """Nothing to do: streams free themselves."""

    def models(self) -> tuple[ModelCard, ...]:
        """Cards of the models on offer."""
        return tuple(model.card for model in self._models.values())

    def card(self, name: str) -> ModelCard:
        """One model's card. Raises EngineError for an unknown name."""
        if name not in self._models:
            raise EngineError("model", not_known("no model is", name, self._models))
        return self._models[name].card

    def serving(self, name: str) -> Serving | None:
        """Which backend runs a model, and why not the native one; None before its first frame."""
        return self._serving.get(name)

    def open(self, spec: StreamSpec) -> LocalStream:
        """Open a stream, loading its model at first use. Raises EngineError."""
        card = self.card(spec.model)
        for task, given in (("pose", spec.pose), ("vos", spec.vos)):
            if given is not None and card.task != task:
                raise EngineError(task, f"{card.name} does {card.task}; it takes no {task} options")
        try:
            return LocalStream(card, self._pipeline(card, spec), self._note)
        except (PrecisionError, CalibrationError) as error:
            words = card.offers(spec.precision or "", error)
            raise EngineError("precision", words) from error
        except ResqError as error:
            _refuse(error)

    def _pipeline(self, card: ModelCard, spec: StreamSpec) -> Pipeline:
        model = self._model(spec.model, spec.precision)
        if isinstance(model, QuantizedStm):
            options = model.options.but(spec.period, spec.reference, spec.policy, spec.threshold)
            return ObjectStream(model, spec.vos or VosStart(), options, max(card.input_size))
        stream = model.stream(
            period=spec.period,
            reference=spec.reference,
            policy=spec.policy,
            threshold=spec.threshold,
            max_active=self._max_active,
        )
        self._note(card.name, model.serving(torch.zeros(1, 3, *card.input_size)))
        if card.task == "pose":
            pose = spec.pose or PoseStart()
            box, at = (None if found is None else Box(*found) for found in (pose.box, spec.at))
            return PosePipeline(stream, card.pose(), box, pose.follow, at=at)
        return SegmentationPipeline(stream, card.segmentation())

    def _note(self, name: str, serving: Serving) -> None:
        self._serving[name] = serving

    def _model(self, name: str, precision: str | None) -> QuantizedModel | QuantizedStm:
        """A model at its own precision, or another; streams share what was planned for it."""
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._models[name].load()
            model = self._loaded[name]
            if precision is None or Precision.parse(precision) == model.precision:
                return model
            key = name, str(Precision.parse(precision))
            if key not in self._variants:
                self._variants[key] = model.with_precision(precision)
                if len(self._variants) > _MAX_VARIANTS:
                    self._variants.popitem(last=False)
            self._variants.move_to_end(key)
            return self._variants[key]


class LocalStream:
    """An `EngineStream` of this process."""

    def __init__(
        self, card: ModelCard, pipeline: Pipeline, note: Callable[[str, Serving], None]
    ) -> None:
        self._card, self._model = card, card.name
        self._pipeline, self._note = pipeline, note

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

    @property
    def room(self) -> float:
        """Infinite: the server's threads work for any stream."""
        return math.inf

    def claim(self, slots: float) -> None:
        """Nobody else asks."""

    def step(self, image: Picture, bit_map: bool, layers: bool, anchor: str | None) -> StepOutput:
        """Run a frame; `anchor` is a reason to run it as a ResQ keyframe. Raises FrameError."""
        try:
            r = self._pipeline.step(image, bit_map, layers, anchor)
        except InputError as error:
            raise FrameError(str(error)) from error
        if isinstance(self._pipeline, ObjectStream):  # of the shapes that its objects gave it
            self._note(self._model, Serving(r.backend, None))
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
            backend=r.backend,
        )

    def answer(self, image: Picture | Kept, ask: Ask) -> Answer:
        """Run a frame at once and encode its result. Raises FrameError."""
        assert not isinstance(image, Kept)
        start = time.perf_counter()
        out = self.step(image, ask.outputs.bit_map, ask.layers, ask.anchor)
        inferred = time.perf_counter()
        background = 0 if self._card.task == "vos" else None
        blobs = tuple(encode_blobs(out, ask.outputs, self._card.colours, background))
        return Answer(out, blobs, inferred - start, time.perf_counter() - inferred)

    def decoder(self, kind: object, limits: Limits) -> None:
        """None: the server decodes."""

    def restore(self) -> None:
        """A process has one engine. Raises WorkerLost."""
        raise WorkerLost("this engine has no other worker")

    def update(self, changes: StreamUpdate) -> None:
        """Change options from the next frame on. Raises EngineError."""
        pipeline = self._pipeline
        if changes.box is not None and not isinstance(pipeline, PosePipeline):
            raise EngineError("box", f"{self._model} is no pose model; it takes no box")
        others = changes.add_objects or changes.remove_objects
        if others and not isinstance(pipeline, ObjectStream):
            raise EngineError("add_objects", f"{self._model} follows no objects")
        try:
            pipeline.update(period=changes.period, threshold=changes.threshold)
            if changes.box is not None and isinstance(pipeline, PosePipeline):
                pipeline.move(Box(*changes.box))
            if others and isinstance(pipeline, ObjectStream):
                pipeline.change(changes.add_objects, changes.remove_objects)
        except ResqError as error:
            _refuse(error)

    def close(self) -> None:
        """Free the state."""
        self._pipeline.close()


def _facts(layer: Any) -> dict[str, Any]:
    names = ("name", "macs", "bops", "policy_bops", "mean_bits", "active_fraction")
    return {name: getattr(layer, name) for name in names}


_FIELDS = ("period", "threshold", "policy", "reference", "box", "vos", "object")


def _refuse(error: ResqError) -> NoReturn:
    if isinstance(error, (BackendError, UnknownModelError)):
        field = "model"
    elif isinstance(error, (InputError, OptionError)):
        text = str(error)
        field = next((name for name in _FIELDS if name in text), "options")
    else:
        raise error
    raise EngineError(field, str(error)) from error
