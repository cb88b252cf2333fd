"""A clip's frames on one stream, or on several at once: results come in the clip's order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import replace
from functools import partial

from service.decoder import ClipFrame
from service.engine import Engine, EngineStream, StepOutput, StreamSpec
from service.threads import thread_pool

__all__ = ["ClipLanes"]

Infer = Callable[[], tuple[StepOutput, float]]
_MOST_BYTES = 128 << 20  # of pictures that wait
_PERIOD = "period"


class ClipLanes:
    """An anchor needs nothing of what came before it, so a whole anchor period goes to each stream
    in turn, and those of several are worked on at once. One stream does a frame when it is taken.

    Where the past matters there is one stream: a pose is looked for where it was last, and objects
    are remembered. With `tracking` an anchor rounds what changed since the stream's last one, so
    that results differ in the last bits from those of one stream.

    Args:
        engine: has `engine.clips` places; a stream is opened for each.
        spec: of every stream.

    Attributes:
        spec: the options in force.

    Raises:
        EngineError: options that the engine refuses.
        WorkerLost: there is no worker for a stream.
    """

    def __init__(self, engine: Engine, spec: StreamSpec) -> None:
        self._waiting: deque[tuple[ClipFrame, Infer]] = deque()
        self._put = self._bytes = 0
        with ExitStack() as stack:
            first = engine.open(spec)
            stack.callback(first.close)
            self.spec = first.spec
            self._streams, self._threads = [first], list[ThreadPoolExecutor]()
            places = engine.clips if engine.card(spec.model).task == "segmentation" else 1
            for _ in range(places - 1):
                self._streams.append(engine.open(spec))
                stack.callback(self._streams[-1].close)
            for _ in range(places if places > 1 else 0):
                self._threads.append(thread_pool(1, "resq-clip"))
                stack.callback(self._threads[-1].shutdown, cancel_futures=True)
            self._stack = stack.pop_all()

    def __len__(self) -> int:
        """Frames that were put and not yet taken."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """No more is to be put before something is taken."""
        if not self._waiting or len(self._streams) == 1:
            return bool(self._waiting)
        return len(self._waiting) >= len(self._streams) * self._period or self._bytes >= _MOST_BYTES

    def put(self, frame: ClipFrame) -> None:
        """The next frame of the clip."""
        number, place = divmod(self._put, self._period)
        self._put += 1
        self._bytes += frame.image.nbytes
        lane = number % len(self._streams)
        stream = self._streams[lane]
        anchor = _PERIOD if place == 0 and number >= len(self._streams) > 1 else None
        step: Infer = partial(_step, stream, frame, anchor, 0 < number < len(self._streams))
        if self._threads:
            future = self._threads[lane].submit(copy_context().run, step)
            self._waiting.append((frame, future.result))
        else:
            self._waiting.append((frame, step))

    def take(self) -> tuple[ClipFrame, Infer]:
        """The oldest frame, and what gives its result and the seconds that it took, once.

        The latter raises FrameError where the frame cannot be inferred, WorkerLost where the state
        of its stream is gone.
        """
        frame, infer = self._waiting.popleft()
        self._bytes -= frame.image.nbytes
        return frame, infer

    def close(self) -> None:
        """End the streams; what was not begun is not done. More calls do nothing."""
        self._waiting.clear()
        self._stack.close()

    @property
    def _period(self) -> int:
        assert self.spec.period is not None
        return self.spec.period


def _step(
    stream: EngineStream, frame: ClipFrame, anchor: str | None, later: bool
) -> tuple[StepOutput, float]:
    """Infer a frame; the first one of a stream is the clip's, or that of a `later` period."""
    start = time.perf_counter()
    out = stream.step(frame.image, True, False, anchor)
    if later and out.index == 0:
        out = replace(out, anchor_reason=_PERIOD)
    return out, time.perf_counter() - start
