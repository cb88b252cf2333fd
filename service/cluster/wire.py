"""What crosses between a gateway and a worker, besides plain values: errors, replies, load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resq_core.backends import Serving
from service.decoder_process import DecoderLost
from service.engine import (
    Answer,
    EngineError,
    FrameError,
    StepOutput,
    StreamSpec,
    StreamTotals,
    WorkerLost,
)
from service.pictures import DecodeError

__all__ = ["Load", "Opened", "Raised", "Reply"]

_MAKE: dict[str, Callable[[str, str], Exception]] = {
    "EngineError": EngineError,
    "FrameError": lambda _, message: FrameError(message),
    "DecodeError": DecodeError,
    "DecoderLost": DecoderLost,
    "WorkerLost": lambda reason, message: WorkerLost(message, reason),
}


@dataclass(frozen=True, slots=True)
class Raised:
    """An error that a worker means for whoever called: errors of other kinds are its own faults,
    and cross as Ray has it.

    Attributes:
        kind: the name of its class.
        about: its field or reason, empty where it has none.
        message: its words.
    """

    kind: str
    about: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> Raised | None:
        """The error as it crosses; None of one that is a fault."""
        kind = type(error).__name__
        if kind not in _MAKE:
            return None
        about = getattr(error, "field", None) or getattr(error, "reason", None) or ""
        return cls(kind, about, str(error))

    @property
    def error(self) -> Exception:
        """The error again."""
        return _MAKE[self.kind](self.about, self.message)


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream that was opened: the options in force, and what runs its model."""

    spec: StreamSpec
    serving: Serving | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a call for a stream, and how the stream stands after it.

    Attributes:
        value: of `answer` (None: too late) or `step`; None of others.
        spec: the options in force where they may have changed, else None.
        totals: sums since the stream was opened there.
        nbytes: of its state.
    """

    value: Answer | StepOutput | None
    spec: StreamSpec | None
    totals: StreamTotals
    nbytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """How a worker stands: frames at the same time, how many were lately, streams it holds, and
    its machine's name and process.
    """

    slots: int
    measured: float
    streams: int
    host: str
    pid: int
