"""What a worker's thread does for one stream: options, a frame, its result."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

from service.degrade import Effects
from service.engine import Ask, EngineError, EngineStream, Priority, WorkerLost
from service.intake import Ready
from service.messages import MAX_PERIOD, Degraded, StreamStart, StreamUpdate, Timings
from service.outbox import Result
from service.protocol import Flags
from service.results import result_meta

__all__ = ["Stepper"]

_MAX_UPDATES = 16  # that wait for the next frame; the oldest go
_SAMPLE_SECONDS = 10.0  # between frames whose layers are looked at for the metrics


class Stepper:
    """Steps an engine's stream with its client's options, or with less while time is short.

    `step` runs in one thread at a time; the rest belongs to the event loop.

    Args:
        stream: in an engine.
        options: of the client.

    Attributes:
        refused: updates that the engine refused; whoever tells the client clears it.
        degraded: what is in force instead of the client's options, or None.
        layers: facts per layer of a residual frame, now and then; whoever shows them clears it.
        cpu_seconds: of the worker's thread, for the last frame and its result.
    """

    def __init__(self, stream: EngineStream, options: StreamStart) -> None:
        self._stream, self._outputs = stream, options.outputs
        self._deadline = None if options.deadline_ms is None else options.deadline_ms / 1000
        spec = stream.spec
        assert spec.period is not None
        assert spec.threshold is not None
        self.period, self._threshold = spec.period, spec.threshold  # as the client wants them
        self._in_force = self.period, self._threshold
        self._updates: deque[StreamUpdate] = deque(maxlen=_MAX_UPDATES)
        self.refused: list[EngineError] = []
        self.degraded: Degraded | None = None
        self.layers: list[dict[str, Any]] | None = None
        self._sampled = -math.inf
        self.cpu_seconds = 0.0

    def update(self, options: StreamUpdate) -> None:
        """Remember new options for the next frame; they are in range already."""
        self._updates.append(options)

    def step(
        self,
        ready: Ready,
        anchor: str | None,
        effects: Effects,
        expected: float,
        priority: Priority = Priority.LIVE,
    ) -> Result | None:
        """Run a frame; None where it is too late for it, or will be when it is done.

        Args:
            ready: the frame.
            anchor: a reason to run it as an anchor.
            effects: what is taken from the stream.
            expected: seconds that it will take.
            priority: where the engine has others wait as well.

        Raises:
            FrameError: the model cannot run on it.
            DecodeError: it is no picture, which shows only now where the engine decodes it.
            DecoderLost, WorkerLost: the stream's decoder, or its state, is gone.
        """
        while self._updates:
            self._apply(self._updates.popleft())
        self._degrade(effects)
        outputs, start, busy = self._outputs, time.perf_counter(), time.thread_time()
        within = None
        if self._deadline is not None:
            within = ready.received + self._deadline - expected - start
            if within < 0:
                return None
        sample = start - self._sampled > _SAMPLE_SECONDS
        ask = Ask(outputs, outputs.layers or sample, anchor, priority, within)
        answer = self._stream.answer(ready.image, ask)
        if answer is None:
            return None
        out, worked = answer.out, answer.decode + answer.infer + answer.encode
        if sample and not out.is_anchor:
            self.layers, self._sampled = out.layers, start
        self.cpu_seconds = time.thread_time() - busy
        timings = Timings(
            receive=_ms(ready.decode_start - ready.received),
            decode=_ms(ready.decoded - ready.decode_start + answer.decode),
            # on its way to a worker and back as well, where that is elsewhere
            queue=_ms(max(0.0, time.perf_counter() - ready.decoded - worked)),
            infer=_ms(answer.infer),
            encode=_ms(answer.encode),
        )
        blobs = tuple(blob for blob, _ in answer.blobs)
        meta = result_meta(ready.seq, ready.pts_us, out, timings, blobs, self.degraded)
        return Result(meta, tuple(data for _, data in answer.blobs), ready.flags & Flags.LAST)

    def _apply(self, update: StreamUpdate) -> None:
        try:
            self._stream.update(update)
        except EngineError as error:
            self.refused.append(error)
        except WorkerLost:
            self._updates.appendleft(update)  # for the next worker
            raise
        else:
            self._outputs = update.outputs or self._outputs
            self.period = update.period or self.period
            self._threshold = self._threshold if update.threshold is None else update.threshold
        spec = self._stream.spec  # a refused update may have been taken in part
        assert spec.period is not None
        assert spec.threshold is not None
        self._in_force = spec.period, spec.threshold

    def _degrade(self, effects: Effects) -> None:
        period = min(MAX_PERIOD, self.period * effects.period)
        threshold = self._threshold * effects.threshold
        if self._in_force != (period, threshold):
            self._stream.update(StreamUpdate(period=period, threshold=threshold))
            self._in_force = period, threshold
        self.degraded = None
        if effects.level:
            self.degraded = Degraded(
                level=effects.level, period=period, threshold=threshold, one_of=effects.one_of
            )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
