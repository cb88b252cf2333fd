"""One clip, run as often as it takes: what a setting costs and what it gives up."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resq_core.errors import InputError
from resq_core.pipelines import Pipeline
from resq_core.pipelines.base import Picture
from resq_core.policy import PolicyForm
from resq_core.precision import Precision
from resq_core.stream import StepResult, StreamOptions
from resq_core.tuning.judges import Judge

__all__ = ["Bench", "Opener", "Point"]

Opener = Callable[[Precision, StreamOptions], Pipeline]
"""Opens a fresh stream."""

_W8A8 = Precision(8, 8)


@dataclass(frozen=True, slots=True)
class Point:
    """One setting on one clip, means over all its frames, keyframes included.

    Attributes:
        precision: that the stream ran at.
        period: T.
        threshold: of the policy.
        drop: points that the W8A8 frames score more; below 0 where they score less.
        bops: share of the W8A8 cost, the policy's own included.
        mean_bits: activation bits, 0 to 8.
        active_fraction: output pixels computed, 0 to 1, weighted by MACs; 1 on a keyframe. Time
            on a CPU follows it.
        ms: wall-clock milliseconds per frame.
    """

    precision: Precision
    period: int
    threshold: float
    drop: float
    bops: float
    mean_bits: float
    active_fraction: float
    ms: float

    @property
    def saving(self) -> float:
        """1 − bops."""
        return 1 - self.bops

    @property
    def cost(self) -> float:
        """√(bops · active_fraction): both the arithmetic and the time that a setting leaves."""
        return float((self.bops * self.active_fraction) ** 0.5)


class Bench:
    """A clip whose W8A8 frames are known.

    Attributes:
        backend: that ran them, as in `StepResult`.
        judge: what compares with them.

    Args:
        frames: pictures uint8 [H, W, 3] RGB in order, one or more.
        open_stream: see `Opener`.
        options: reference and per-layer factors of every run; the policy is the relative one.
        judge: makes the judge from the W8A8 frames' predictions.

    Raises:
        InputError: there is no frame, or the judge cannot use what it is given.
        CalibrationError: the model is not calibrated for W8A8 frames.
    """

    def __init__(
        self,
        frames: Sequence[Picture],
        open_stream: Opener,
        options: StreamOptions,
        judge: Callable[[list[Any]], Judge],
    ) -> None:
        if not frames:
            raise InputError("the clip has no frame; expected one or more")
        self._frames, self._open = frames, open_stream
        self._options = options.but(policy=PolicyForm.RELATIVE)
        w8a8 = [result for result, _ in self._run(_W8A8, 1, 0.0)]
        self.backend = w8a8[0].backend
        self.judge = judge([result.output for result in w8a8])

    def __len__(self) -> int:
        return len(self._frames)

    def measure(
        self,
        precision: Precision,
        period: int,
        threshold: float,
        factors: Mapping[str, float] | None = None,
    ) -> Point:
        """Run the clip; without factors on the threshold, those of the bench's options hold.

        Raises:
            OptionError: period or threshold out of range.
            CalibrationError: the model is not calibrated for the precision.
        """
        count, bops, baseline, bits, active, seconds = len(self), 0, 0, 0.0, 0.0, 0.0

        def outputs() -> Iterator[Any]:
            nonlocal bops, baseline, bits, active, seconds
            for result, spent in self._run(precision, period, threshold, factors):
                bops += result.bops.frame + result.bops.policy
                baseline += result.bops.w8a8
                bits += result.mean_bits
                active += result.active_fraction
                seconds += spent
                yield result.output

        score = self.judge.score(outputs())
        return Point(
            precision=precision,
            period=period,
            threshold=threshold,
            drop=self.judge.baseline - score,
            bops=bops / max(baseline, 1),
            mean_bits=bits / count,
            active_fraction=active / count,
            ms=1000 * seconds / count,
        )

    def time_in_turn(self, points: Sequence[Point]) -> tuple[float, list[float]]:
        """Mean milliseconds per W8A8 frame, and of each point's setting.

        All run side by side, a frame of each in turn, so that whatever else the machine does
        meets them alike. Each holds its own state meanwhile.
        """
        runs = [self._run(_W8A8, 1, 0.0)]
        runs += [self._run(p.precision, p.period, p.threshold) for p in points]
        spent = [0.0] * len(runs)
        for _ in self._frames:
            for i, run in enumerate(runs):
                spent[i] += next(run)[1]
        for run in runs:
            run.close()
        w8a8, *others = (1000 * seconds / len(self) for seconds in spent)
        return w8a8, others

    def _run(
        self,
        precision: Precision,
        period: int,
        threshold: float,
        factors: Mapping[str, float] | None = None,
    ) -> Generator[tuple[StepResult, float], None, None]:
        """Every frame's result and its seconds."""
        options = self._options.but(period=period, threshold=threshold, factors=factors)
        stream = self._open(precision, options)
        try:
            for frame in self._frames:
                start = time.perf_counter()
                result = stream.step(frame)
                yield result, time.perf_counter() - start
        finally:
            stream.close()
