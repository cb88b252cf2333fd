"""Where frames become predictions: the interface of an engine.

A session knows `Engine` and `EngineStream` only, and passes plain values and arrays: an engine on
another machine can stand in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resq_core.backends import Serving
from resq_core.tasks import Pose
from resq_core.zoo import ModelCard
from service.messages import Bops, PoseStart, StreamUpdate, VosStart
from service.pictures import Picture

__all__ = [
    "Engine",
    "EngineError",
    "EngineStream",
    "FrameError",
    "StepOutput",
    "StreamSpec",
    "StreamTotals",
]


class EngineError(Exception):
    """Options that an engine refuses; `field` names the one at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class FrameError(Exception):
    """A frame that the model cannot run on; it costs itself."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a stream asks for; None takes the model's own.

    Attributes:
        at: [x, y, width, height], where a pose's first frame is looked at instead of its box.
    """

    model: str
    precision: str | None = None
    period: int | None = None
    threshold: float | None = None
    policy: str | None = None
    reference: str | None = None
    pose: PoseStart | None = None
    vos: VosStart | None = None
    at: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One frame's result.

    Attributes:
        ids: class or object ids uint8 [H, W], of the frame's size; None of a pose.
        pose: joints and the box that was looked at; None of a mask.
        bit_map: float32 [h, w], bits 0 to 8, or None.
        layers: facts per layer, JSON-ready, or None.
        index, is_anchor, anchor_reason, bops, mean_bits, active_fraction, clipped_fraction,
            backend: as on the wire.
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
    backend: str


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

    def serving(self, name: str) -> Serving | None:
        """Which backend runs a model, and why not the native one; None before its first frame."""
        ...

    def open(self, spec: StreamSpec) -> EngineStream:
        """Open a stream, loading its model at first use. Raises EngineError."""
        ...
