"""The server's side of `resq.v1` without I/O: text and bytes in, events out; every frame counted.

A client sends `stream.start`, gets `stream.started` with a number of credits, then sends binary
frames. Each frame it sends is answered by exactly one result or one `drop`, and either gives the
frame's credit back. `stream.end` asks for the rest of the answers, then `stream.ended`, then 1000.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from pydantic import BaseModel, ValidationError

from service.messages import (
    Drop,
    ErrorMessage,
    Ledger,
    ResultMeta,
    Started,
    StreamEnd,
    StreamStart,
    StreamUpdate,
    explain,
)
from service.wire import Flags, Frame, Kind, WireError, load_object

__all__ = [
    "BEARER_PREFIX",
    "MAX_TEXT",
    "SUBPROTOCOL",
    "Close",
    "EndRequested",
    "Event",
    "Flags",
    "Frame",
    "FrameReceived",
    "Kind",
    "Refused",
    "ResumeRequested",
    "ServerProtocol",
    "StartRequested",
    "State",
    "UpdateRequested",
    "WireError",
]

SUBPROTOCOL = "resq.v1"
BEARER_PREFIX = "resq.bearer."
MAX_TEXT = 64 * 1024
_KIND_OF_INPUT = {"image": Kind.IMAGE, "h264": Kind.H264, "vp8": Kind.VP8, "rgb": Kind.RGB}


class Close(IntEnum):
    """WebSocket close codes."""

    NORMAL = 1000
    VIOLATION = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    SHUTDOWN = 1012
    FULL = 1013
    BAD_OPTIONS = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    IDLE = 4408
    DUPLICATE = 4409
    SLOW_READER = 4413
    QUOTA = 4429


class State(Enum):
    """What a stream may send and receive."""

    WAITING = "waiting"  # for stream.start
    STARTING = "starting"  # the model is loading
    RUNNING = "running"
    ENDING = "ending"  # answers to earlier frames only
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class StartRequested:
    """The client asks for a stream; answer with `started` or `refuse`."""

    options: StreamStart


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    """The client asks for the stream of this token, which another `ServerProtocol` looks after."""

    token: str


@dataclass(frozen=True, slots=True)
class UpdateRequested:
    """The client changes options from the next frame on."""

    options: StreamUpdate


@dataclass(frozen=True, slots=True)
class EndRequested:
    """No frame follows."""


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A frame, entered in the ledger; `settle` it by a result or a drop."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Refused:
    """Something was wrong: send `error`, then close with `close` if it is not None."""

    error: ErrorMessage
    close: Close | None


Event = StartRequested | ResumeRequested | UpdateRequested | EndRequested | FrameReceived | Refused


class ServerProtocol:
    """One stream, over one connection after another. Not thread-safe: the event loop owns it."""

    def __init__(self) -> None:
        self.state = State.WAITING
        self.received = 0
        self.results = 0
        self.drop_reasons: Counter[str] = Counter()
        self._open: set[int] = set()
        self._last_seq = -1
        self._kind = Kind.IMAGE
        self._window: int | None = None

    @property
    def drops(self) -> int:
        """Frames that were answered by a drop."""
        return self.drop_reasons.total()

    @property
    def outstanding(self) -> int:
        """Frames that were received and not answered yet."""
        return len(self._open)

    @property
    def open_frames(self) -> frozenset[int]:
        """Their seqs."""
        return frozenset(self._open)

    def receive_text(self, text: str) -> Event | None:
        """A text message; None where the connection no longer listens."""
        if self.state is State.CLOSED:
            return None
        if len(text) > MAX_TEXT:
            return self.refuse(
                "message_too_big",
                f"a text message has {len(text)} characters; expected at most {MAX_TEXT}",
                close=Close.TOO_BIG,
            )
        try:
            message = load_object(text, "a text message")
        except WireError as error:
            return self._violation("bad_message", str(error))
        handlers = {
            "stream.start": self._on_start,
            "stream.update": self._on_update,
            "stream.end": self._on_end,
        }
        kind = message.get("type")
        handler = handlers.get(kind) if isinstance(kind, str) else None
        if handler is None:
            return self._violation(
                "bad_message", f"type is {str(kind)[:40]!r}; expected one of {list(handlers)}"
            )
        return handler(message)

    def receive_bytes(self, data: bytes) -> Event | None:
        """A binary message; None where the connection no longer listens."""
        if self.state is State.CLOSED:
            return None
        if self.state is not State.RUNNING:
            return self._violation(
                "bad_state", f"a frame came while {self.state.value}; expected it after started"
            )
        try:
            frame = Frame.unpack(data)
        except WireError as error:
            return self._violation("bad_frame", str(error))
        problem = self._frame_problem(frame)
        if problem is not None:
            return self._violation("bad_frame", problem)
        self._last_seq = frame.seq
        self._open.add(frame.seq)
        self.received += 1
        return FrameReceived(frame)

    @property
    def ledger(self) -> Ledger:
        """What became of the frames so far."""
        return Ledger(
            last_seq=None if self._last_seq < 0 else self._last_seq,
            received=self.received,
            results=self.results,
            drops=self.drops,
            drop_reasons=dict(self.drop_reasons),
        )

    def started(self, message: Started) -> str:
        """Answer `stream.start`; frames may come from now on."""
        if message.resumed is None:
            self._require(State.STARTING)
        else:
            self._require(State.RUNNING, State.ENDING)
        self.state = State.RUNNING
        self._kind = _KIND_OF_INPUT[message.input]
        self._window = message.credits if message.mode == "lossless" else None
        return dump(message)

    def result(self, meta: ResultMeta, blobs: Sequence[bytes], flags: Flags) -> bytes:
        """Answer a frame with its result."""
        self._settle(meta.seq)
        self.results += 1
        if meta.is_anchor:
            flags |= Flags.ANCHOR
        fields = meta.model_dump(mode="json")
        return Frame(Kind.RESULT, meta.seq, meta.pts_us, b"".join(blobs), fields, flags).pack()

    def drop(self, seq: int, reason: str, message: str | None = None) -> str:
        """Answer a frame with the reason why it has no result."""
        self._settle(seq)
        self.drop_reasons[reason] += 1
        return dump(Drop(seq=seq, reason=reason, message=message))

    def drop_all(self, reason: str) -> list[str]:
        """Answer every open frame with a drop, in order."""
        return [self.drop(seq, reason) for seq in sorted(self._open)]

    def close(self) -> None:
        """Nothing is received from now on."""
        self.state = State.CLOSED

    def refuse(
        self,
        code: str,
        message: str,
        field: str | None = None,
        close: Close | None = None,
    ) -> Refused:
        """An error for the client; a `close` code ends the connection."""
        if close is not None:
            self.state = State.CLOSED
        error = ErrorMessage(code=code, message=message, field=field, fatal=close is not None)
        return Refused(error, close)

    def _on_start(self, message: dict[str, object]) -> Event:
        if self.state is not State.WAITING:
            return self._violation("bad_state", "stream.start came twice; expected it once, first")
        try:
            options = StreamStart.model_validate(message)
        except ValidationError as error:
            field, text = explain(error)
            return self.refuse("bad_options", text, field, Close.BAD_OPTIONS)
        self.state = State.STARTING
        if options.resume is not None:
            return ResumeRequested(options.resume)
        return StartRequested(options)

    def _on_update(self, message: dict[str, object]) -> Event:
        if self.state not in (State.RUNNING, State.ENDING):
            return self._violation("bad_state", "stream.update came before stream.started")
        try:
            return UpdateRequested(StreamUpdate.model_validate(message))
        except ValidationError as error:
            field, text = explain(error)
            return self.refuse("bad_options", text, field)

    def _on_end(self, message: dict[str, object]) -> Event:
        if self.state is not State.RUNNING:
            return self._violation("bad_state", f"stream.end came while {self.state.value}")
        try:
            StreamEnd.model_validate(message)
        except ValidationError as error:
            return self._violation("bad_message", explain(error)[1])
        self.state = State.ENDING
        return EndRequested()

    def _frame_problem(self, frame: Frame) -> str | None:
        if frame.kind is not self._kind:
            return f"frame kind is {frame.kind.name}; this stream takes {self._kind.name}"
        if frame.seq <= self._last_seq:
            return f"seq is {frame.seq} after {self._last_seq}; expected it to grow"
        if self._window is not None and len(self._open) >= self._window:
            return f"{self._window + 1} frames on their way; expected at most {self._window}"
        return None

    def _settle(self, seq: int) -> None:
        if seq not in self._open:
            raise RuntimeError(f"frame {seq} is not open: a frame is answered exactly once")
        self._open.remove(seq)

    def _violation(self, code: str, message: str) -> Refused:
        return self.refuse(code, message, close=Close.VIOLATION)

    def _require(self, *states: State) -> None:
        if self.state not in states:
            wanted = " or ".join(state.value for state in states)
            raise RuntimeError(f"the protocol is {self.state.value}; expected {wanted}")


def dump(message: BaseModel) -> str:
    """A message as JSON text."""
    return message.model_dump_json()
