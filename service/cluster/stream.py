"""One stream on a worker elsewhere, as a gateway holds it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol
from weakref import WeakSet

from resq_core.zoo import ModelCard
from service.cluster.call import call
from service.cluster.wire import Opened, Reply
from service.decoder import Decoded
from service.engine import (
    Answer,
    Ask,
    EngineError,
    Kept,
    StepOutput,
    StreamSpec,
    StreamTotals,
    WorkerLost,
)
from service.messages import StreamUpdate
from service.pictures import Limits, Picture

__all__ = ["Home", "Place", "RemoteDecoder", "RemoteStream"]

_CALL_SECONDS = 30.0  # after which a worker that says nothing is given up
_OPEN_SECONDS = 120.0  # a model is loaded
_NOTHING = StreamTotals(0, 0, 0, 0, 0, 0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Place:
    """A stream on a worker: the worker's name and handle, the stream's key there, and the slots
    that it could claim.
    """

    name: str
    handle: Any
    key: str
    room: float


class Home(Protocol):
    """What a stream asks of its gateway's engine."""

    def place(self, avoid: str | None) -> Place:
        """A worker, other than that of a name where it can. Raises WorkerLost."""
        ...

    def is_leaving(self, worker: str) -> bool:
        """Whether streams are to leave it and can; asked before each frame."""
        ...

    def on_lost(self, worker: str) -> None:
        """It could not be reached."""
        ...

    def on_left(self, place: Place) -> None:
        """The stream is there no more."""
        ...


class RemoteStream:
    """An `EngineStream` whose state is on a worker.

    Args:
        card: of the model.
        spec: what it asks for.
        home: finds a worker, and is told what becomes of it.

    Raises:
        EngineError: options that the engine refuses.
        WorkerLost: no worker could open it.
    """

    def __init__(self, card: ModelCard, spec: StreamSpec, home: Home) -> None:
        self._card, self._home = card, home
        self._before, self._totals, self.nbytes = _NOTHING, _NOTHING, 0
        self._reason: str | None = None  # of the anchor that comes next, after a loss
        self._claim, self.open = 0.0, True
        self._spec = spec
        self.place, opened = self._open(None)
        self.serving = opened.serving
        self._begun = replace(opened.spec, pose=spec.pose, vos=spec.vos)
        self._spec = opened.spec

    @property
    def spec(self) -> StreamSpec:
        """The options in force, nothing None."""
        return self._spec

    @property
    def totals(self) -> StreamTotals:
        """Sums so far, on all workers that it had."""
        return self._before.plus(self._totals)

    @property
    def room(self) -> float:
        """Slots that it could claim on its worker when it came there."""
        return self.place.room

    @property
    def claimed(self) -> float:
        """Slots that its declared rate takes."""
        return self._claim

    def claim(self, slots: float) -> None:
        """How many slots its declared rate takes; the roster is told within a second."""
        self._claim = slots

    def step(self, image: Picture, bit_map: bool, layers: bool, anchor: str | None) -> StepOutput:
        """Run a frame of a clip. Raises FrameError, or WorkerLost."""
        self._stay()
        reply = self._call("step", image, bit_map, layers, anchor)
        assert isinstance(reply.value, StepOutput)
        return self._continued(reply.value)

    def answer(self, image: Picture | Kept, ask: Ask) -> Answer | None:
        """Run a live frame and encode its result there.

        Raises:
            FrameError, DecodeError: this frame cannot be had.
            DecoderLost, WorkerLost: nor can any other.
        """
        self._stay()
        reply = self._call("answer", image, ask)
        answer = reply.value
        if answer is None:
            return None
        assert isinstance(answer, Answer)
        return replace(answer, out=self._continued(answer.out))

    def decoder(self, kind: Literal["image", "h264", "vp8"], limits: Limits) -> RemoteDecoder:
        """A decoder on the worker that the stream has when it is opened."""
        return RemoteDecoder(self, kind, limits)

    def update(self, changes: StreamUpdate) -> None:
        """Change options from the next frame on. Raises EngineError, or WorkerLost."""
        try:
            reply = self._call("update", changes)
        except EngineError:
            self._take(self._call("options"))  # a part may be in force
            raise
        self._take(reply)
        pose = self._begun.pose
        if changes.box is not None and pose is not None:
            self._begun = replace(
                self._begun, pose=pose.model_copy(update={"box": changes.box}), at=None
            )

    def restore(self) -> None:
        """Go on with another worker, without state. Raises WorkerLost, or EngineError."""
        if self._card.task == "vos":
            raise EngineError(
                "vos", "the objects were known to the worker alone; begin again with their masks"
            )
        old, self._spec = self.place, replace(self._begun, **_in_force(self._spec))
        place, opened = self._open(old.name)
        self._leave(old)
        self._before, self._totals, self.nbytes = self.totals, _NOTHING, 0
        self.place, self._spec = place, opened.spec

    def close(self) -> None:
        """Free the state; nobody waits for it."""
        self._leave(self.place)
        self.nbytes, self.open = 0, False

    def _leave(self, place: Place) -> None:
        place.handle.close.remote(place.key)  # one that was lost may only have been slow
        self._home.on_left(place)

    def _open(self, avoid: str | None, again: bool = True) -> tuple[Place, Opened]:
        """On a worker, and on another where that one is lost meanwhile."""
        place = self._home.place(avoid)
        gateway = place.key.split("/")[0]
        try:
            opened = call(place.handle.open, place.key, gateway, self._spec, seconds=_OPEN_SECONDS)
        except WorkerLost:
            self._home.on_lost(place.name)
            self._home.on_left(place)
            if again:
                return self._open(place.name, again=False)
            raise
        except EngineError:
            self._home.on_left(place)
            raise
        assert isinstance(opened, Opened)
        return place, opened

    def _stay(self) -> None:
        """Raise WorkerLost where the operator wants the worker empty and the stream can go."""
        if self._card.task != "vos" and self._home.is_leaving(self.place.name):
            self._reason = "worker_drained"
            raise WorkerLost(f"{self.place.name} is drained", "worker_drained")

    def _call(self, name: str, *args: Any) -> Reply:
        reply = self.at(self.place, name, *args)
        assert isinstance(reply, Reply)
        self._totals = reply.totals
        if self.open:  # its end does not wait for a call that is on its way
            self.nbytes = reply.nbytes
        return reply

    def at(self, place: Place, name: str, *args: Any) -> Any:
        """Call a method for the stream where it is, or was."""
        try:
            method = getattr(place.handle, name)
            return call(method, place.key, *args, seconds=_CALL_SECONDS)
        except WorkerLost as lost:
            if place is self.place:
                self._reason = lost.reason
                self._home.on_lost(place.name)
            raise

    def _take(self, reply: Reply) -> None:
        assert reply.spec is not None
        self._spec = reply.spec

    def _continued(self, out: StepOutput) -> StepOutput:
        """As of one stream, on however many workers it was."""
        if out.pose is not None:
            box = out.pose.box
            self._begun = replace(self._begun, at=(box.x, box.y, box.width, box.height))
        if not self._before.frames:
            return out
        reason = out.anchor_reason
        if reason == "first_frame":
            reason = self._reason
        return replace(out, index=out.index + self._before.frames, anchor_reason=reason)


def _in_force(spec: StreamSpec) -> dict[str, Any]:
    names = ("precision", "period", "threshold", "policy", "reference")
    return {name: getattr(spec, name) for name in names}


class RemoteDecoder:
    """A decoder beside a stream's state: bytes go there, and pictures stay there.

    Args:
        stream: whose it is.
        kind: what `decode` is given.
        limits: of a frame.
    """

    _numbers = itertools.count(1)

    def __init__(
        self, stream: RemoteStream, kind: Literal["image", "h264", "vp8"], limits: Limits
    ) -> None:
        self._stream, self._kind, self._limits = stream, kind, limits
        self._number = next(self._numbers)
        self._place: Place | None = None
        self._wanted: WeakSet[Kept] = WeakSet()  # what nobody holds any more nobody will ask for

    def open(self) -> None:
        """Have one where the stream is now. Raises DecoderLost, or WorkerLost."""
        self._place = self._stream.place
        self._at("start_decoder", self._kind, self._limits)

    def decode(self, data: bytes, seq: int) -> Sequence[Decoded | Kept]:
        """Pictures of a frame. Raises DecodeError, DecoderLost, or WorkerLost.

        One that stands for itself goes to the worker when it is inferred, not before: a way less,
        and what is superseded until then is never decoded.
        """
        if self._kind == "image":
            return [Kept(seq, data, self._number)]
        return self._decode(data, seq)

    def flush(self) -> Sequence[Decoded | Kept]:
        """Pictures that the codec still held back. Raises DecoderLost, or WorkerLost."""
        return self._decode(None, 0)

    def close(self) -> None:
        """End it; nobody waits for that."""
        if self._place is not None:
            self._place.handle.end_decoder.remote(self._place.key, self._number)

    def _decode(self, data: bytes | None, seq: int) -> list[Kept]:
        wanted = frozenset(kept.seq for kept in self._wanted)
        found = [Kept(seq) for seq in self._at("decode", data, seq, wanted)]
        self._wanted.update(found)
        return found

    def _at(self, name: str, *args: Any) -> Any:
        assert self._place is not None
        return self._stream.at(self._place, name, self._number, *args)
