"""The frames of one source, decoded in a process of its own."""

from __future__ import annotations

import threading

from pydantic import ValidationError

from service.decoder import ClipFrame, ClipLimits
from service.decoder_process import ClipFacts, DecoderLost, DecoderPool, DecoderProcess
from service.decoder_wire import Kind, Message
from service.pictures import Limits
from service.source_feed import Feed, SourceError

__all__ = ["SourceReader"]

_SECONDS, _FRAMES = 1e12, 1 << 62  # a source has no end


class SourceReader:
    """Blocking; one thread opens and reads, any thread may close.

    Args:
        limits: of a frame.
        seconds: to open, and from one frame to the next.

    Raises:
        SourceError: no frame came in time.
        ClipError: what comes is no usable video.
        DecoderLost: the process is gone, or the reader was closed.
    """

    def __init__(self, pool: DecoderPool, limits: Limits, seconds: float) -> None:
        self._pool, self._seconds = pool, seconds
        self._limits = ClipLimits(0, _SECONDS, _FRAMES, limits)
        self._lock = threading.Lock()
        self._process: DecoderProcess | None = None
        self._closed = False

    def open(self, feed: Feed) -> ClipFacts:
        """Have a process open the source, once; what it is."""
        process = self._pool.take()
        with self._lock:
            self._process, closed = process, self._closed
        if closed:
            self._pool.end(process)
        process.start(feed.kind, self._limits, feed.name, feed.descriptors, self._seconds)
        body = self._ask(Message(Kind.OPEN), (Kind.FACTS,)).body
        try:
            return ClipFacts.model_validate_json(body)
        except ValidationError:
            process.fail("facts of another form")

    def next(self) -> ClipFrame | None:
        """The next frame; None at the end."""
        assert self._process is not None
        answer = self._ask(Message(Kind.NEXT), (Kind.FRAME, Kind.DONE))
        if answer.kind is Kind.DONE:
            return None
        image = self._process.picture(answer, self._limits.frame)
        return ClipFrame(answer.number, answer.pts_us, image)

    def close(self) -> None:
        """End the process, from any thread; an `open` or `next` that runs raises DecoderLost."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            self._pool.end(process)

    def _ask(self, question: Message, expected: tuple[Kind, ...]) -> Message:
        assert self._process is not None
        try:
            return self._process.ask(question, expected)
        except DecoderLost as error:
            if error.reason == "decoder_timeout":
                raise SourceError(f"no frame came for {self._seconds:g} s") from error
            raise
