"""Where frames become predictions: the interface of an engine.

A session knows `Engine` and `EngineStream` only, and passes plain values and arrays: an engine on
other machines can stand in (`service/cluster`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from resq_core.backends import Serving
from resq_core.tasks import Pose
from resq_core.zoo import ModelCard
from service.decoder import Decoded
from service.messages import Blob, Bops, Outputs, PoseStart, StreamUpdate, VosStart
from service.pictures import Limits, Picture

__all__ = [
    "Answer",
    "Ask",
    "Decoder",
    "Engine",
    "EngineError",
    "EngineStream",
    "FrameError",
    "Kept",
    "Priority",
    "StepOutput",
    "StreamSpec",
    "StreamTotals",
    "WorkerLost",
]


class Priority(IntEnum):
    """Work of a lower number goes first: frames within a declared rate, other live ones, clips."""

    RESERVED = 0
    LIVE = 1
    CLIP = 2


class EngineError(Exception):
    """Options that an engine refuses; `field` names the one at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class FrameError(Exception):
    """A frame that the model cannot run on; it costs itself."""


class WorkerLost(Exception):  # noqa: N818 - an end, not a mistake of whoever called
    """Where a stream ran is gone, and the stream's state with it.

    `reason` is `worker_lost`, `worker_drained` where an operator wanted it, or `no_worker` where
    there was none to begin with.
    """

    def __init__(self, message: str, reason: str = "worker_lost") -> None:
        super().__init__(message)
        self.reason = reason


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

    def plus(self, later: StreamTotals) -> StreamTotals:
        """The sums of two stretches of one stream."""
        frames, w8a8 = self.frames + later.frames, self.bops_w8a8 + later.bops_w8a8
        bops, policy_bops = self.bops + later.bops, self.policy_bops + later.policy_bops
        bits = self.mean_bits * self.frames + later.mean_bits * later.frames
        return StreamTotals(
            frames=frames,
            anchors=self.anchors + later.anchors,
            bops=bops,
            policy_bops=policy_bops,
            bops_w8a8=w8a8,
            bops_fp32=self.bops_fp32 + later.bops_fp32,
            saving=1.0 - (bops + policy_bops) / w8a8 if w8a8 else 0.0,
            mean_bits=bits / frames if frames else 0.0,
        )


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Kept:
    """A picture that the engine has, or will have: it stays where it is decoded.

    Attributes:
        seq: of the packet that it came in.
        data: the packet, where it is decoded when its turn comes; None where it was.
        decoder: which one decodes it then.
    """

    seq: int
    data: bytes | None = None
    decoder: int = 0


class Decoder(Protocol):
    """Bytes of one stream to pictures. Its methods block; one thread at a time decodes."""

    def open(self) -> None:
        """Be ready for the first frame, once. Raises DecoderLost, or WorkerLost."""
        ...

    def decode(self, data: bytes, seq: int) -> Sequence[Decoded | Kept]:
        """Pictures of a frame that is a picture, or of an access unit.

        Raises:
            DecodeError: this frame cannot be had.
            DecoderLost, WorkerLost: none can any more.
        """
        ...

    def flush(self) -> Sequence[Decoded | Kept]:
        """Pictures that the codec still held back. Raises DecoderLost, or WorkerLost."""
        ...

    def close(self) -> None:
        """End it, from any thread; a `decode` that runs raises."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted of a frame.

    Attributes:
        outputs: what its client wants to have.
        layers: facts per layer as well.
        anchor: a reason to run it as a ResQ keyframe, or None.
        priority: where frames of several streams wait for the same worker.
        within: seconds after which it is not to be begun any more; None is no limit.
    """

    outputs: Outputs
    layers: bool = False
    anchor: str | None = None
    priority: Priority = Priority.LIVE
    within: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A frame's result as its client wants it.

    Attributes:
        out: the result; of another machine without `ids` and `bit_map`, which are among the blobs.
        blobs: each with its descriptor, in wire order.
        infer, encode: seconds of a worker's time.
        decode: seconds that the picture took, where it was decoded now.
    """

    out: StepOutput
    blobs: tuple[tuple[Blob, bytes], ...]
    infer: float
    encode: float
    decode: float = 0.0


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

    @property
    def room(self) -> float:
        """Frames at the same time that it may claim where it runs; infinite where nothing but what
        all streams claim limits it.
        """
        ...

    def claim(self, slots: float) -> None:
        """How many its declared rate takes from now on."""
        ...

    def step(self, image: Picture, bit_map: bool, layers: bool, anchor: str | None) -> StepOutput:
        """Run a frame of a clip; `anchor` is a reason to run it as a ResQ keyframe.

        Raises:
            FrameError: the model cannot run on it.
            WorkerLost: nor on any other.
        """
        ...

    def answer(self, image: Picture | Kept, ask: Ask) -> Answer | None:
        """Run a live frame and encode its result; None where its turn came too late.

        Raises:
            FrameError, WorkerLost: as `step`.
        """
        ...

    def decoder(self, kind: Literal["image", "h264", "vp8"], limits: Limits) -> Decoder | None:
        """A decoder where the stream runs; None leaves decoding to the server."""
        ...

    def update(self, changes: StreamUpdate) -> None:
        """Change options from the next frame on. Raises EngineError, or WorkerLost."""
        ...

    def restore(self) -> None:
        """After a WorkerLost: go on elsewhere, without state, with the options in force; the next
        frame is an anchor for the reason of the loss. Decoders have to be opened anew.

        Raises:
            WorkerLost: there is nowhere to go on.
            EngineError: what is lost cannot be begun anew.
        """
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
        """Open a stream, loading its model at first use.

        Raises:
            EngineError: options that it refuses.
            WorkerLost: there is no worker for it.
        """
        ...

    @property
    def slots(self) -> float | None:
        """Frames that workers elsewhere infer at the same time, less what other servers claim of
        them; None where the threads of this server infer.
        """
        ...

    @property
    def clips(self) -> int:
        """Clips that are worked on at the same time, and streams that one of them may have, at
        least 1.
        """
        ...

    def share(self, streams: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Tell what streams this server has, each with its description; gives those of the other
        servers that use the engine.
        """
        ...

    def close(self) -> None:
        """Be done with it; what it shares with other servers stays."""
        ...
