"""What a stream's frames cost a machine, as measured: time, memory and bytes. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resq_core.errors import InputError, OptionError

__all__ = ["FrameCosts", "WorkerTimes"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Spread = Annotated[tuple[Positive, ...], Field(min_length=2, max_length=101)]
_QUANTILES = np.linspace(0, 1, 21)
_KEPT = 0.9  # of the residual frames, by how far they are from the line, that it is fitted to
_LEAST_RANGE = 0.02  # of active fractions, from which a slope can be told


class _Measured(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class WorkerTimes(_Measured):
    """What frames take of a worker's thread: inference, and encoding the result.

    A ResQ keyframe takes `anchor_ms`, a residual frame `residual_ms + active_ms * a` at the active
    fraction a, 0 to 1. The spreads are what single frames took of that: evenly spaced quantiles,
    the least first and the most last, with a mean of 1.
    """

    anchor_ms: Positive
    residual_ms: Amount
    active_ms: Amount
    active: Annotated[tuple[float, float, float], Field(description="least, mean and most")]
    anchor_spread: Spread
    residual_spread: Spread
    frames: Annotated[int, Field(ge=1)]

    @classmethod
    def fit(
        cls, anchors: NDArray[np.bool_], active: NDArray[np.float64], ms: NDArray[np.float64]
    ) -> WorkerTimes:
        """From single frames: which are keyframes, their active fractions, and what each took.

        The line is that of least squares, without the tenth of the frames that are farthest from
        it: a pause of the machine is no cost of a frame. Where all frames are about as active, or
        more active ones are no slower, it is level.

        Raises:
            InputError: there is no keyframe among them, or fewer than three residual frames.
        """
        x, y = active[~anchors], ms[~anchors]
        if not anchors.any() or len(x) < 3:
            found = f"{int(anchors.sum())} keyframes and {len(x)} residual frames were measured"
            raise InputError(f"{found}; expected 1 and 3 at least, of a stream with T of 2 or more")
        base, slope = _line(x, y)
        off = np.abs(y - base - slope * x)
        near = off <= np.quantile(off, _KEPT)
        base, slope = _line(x[near], y[near])
        anchor = float(np.median(ms[anchors]))
        return cls(
            anchor_ms=anchor,
            residual_ms=base,
            active_ms=slope,
            active=(float(x.min()), float(x.mean()), float(x.max())),
            anchor_spread=_spread(ms[anchors] / anchor),
            residual_spread=_spread(y / np.maximum(base + slope * x, 1e-3)),
            frames=len(ms),
        )

    def scaled(self, anchor_ms: float, points: Sequence[tuple[float, float]]) -> WorkerTimes:
        """The same spreads, around what frames took of the processor: that is the less disturbed
        figure where a machine has other things to do.

        Args:
            anchor_ms: of a keyframe.
            points: mean active fraction of some residual frames, and what one of them took.
        """
        x, y = np.array(points, np.float64).T
        base, slope = _line(x, y)
        if np.ptp(x) < _LEAST_RANGE:  # how it rises is told by the single frames
            ratio = float(y.mean()) / max(self.residual(float(x.mean())), 1e-3)
            base, slope = ratio * self.residual_ms, ratio * self.active_ms
        return self.model_copy(
            update={"anchor_ms": anchor_ms, "residual_ms": base, "active_ms": slope}
        )

    def residual(self, active: float) -> float:
        """Milliseconds of a residual frame at an active fraction."""
        return self.residual_ms + self.active_ms * active

    def mean(self, period: int, active: float) -> float:
        """Milliseconds of the mean frame: one keyframe and T - 1 residual frames."""
        return (self.anchor_ms + (period - 1) * self.residual(active)) / period


class FrameCosts(_Measured):
    """One model's costs on one machine, at one size of picture.

    Attributes:
        processor, cores, memory_bytes: of the machine; None where that is not known.
        model, precision, period: what was run.
        worker: see `WorkerTimes`.
        other_ms: processor time of a frame beside that: receiving, decoding, sending. None where
            the server did not tell.
        frame_bytes, result_bytes: of one frame that came, and of its result.
        server_bytes: memory of a server without streams; decoder_bytes, state_bytes: of each
            stream's decoder process and of its state. None where the server did not tell.
    """

    processor: str | None = None
    cores: Annotated[int, Field(ge=1)] | None = None
    memory_bytes: Amount | None = None
    model: str
    precision: str
    period: Annotated[int, Field(ge=1)]
    worker: WorkerTimes
    other_ms: Amount | None = None
    frame_bytes: Amount
    result_bytes: Amount
    server_bytes: Amount | None = None
    decoder_bytes: Amount | None = None
    state_bytes: Amount | None = None

    @classmethod
    def read(cls, document: Any) -> FrameCosts:
        """From the JSON of `resq loadgen` or `resq plan`: what stands there under `costs`.

        Raises:
            OptionError: it is something else.
        """
        found = document.get("costs") if isinstance(document, dict) else None
        if not isinstance(found, dict):
            raise OptionError(
                'there is no object "costs" in it; expected JSON that `resq loadgen --json` or '
                "`resq plan --json` wrote"
            )
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in ("costs", *first["loc"]))
            raise OptionError(f"{place}: {first['msg'].replace('Input', 'input', 1)}") from error

    def cpu_ms(self, period: int, active: float) -> float:
        """Milliseconds of one core that the mean frame takes, all told as far as it is known."""
        return self.worker.mean(period, active) + (self.other_ms or 0.0)


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Base and slope, neither below 0, of the least squares."""
    if np.ptp(x) < _LEAST_RANGE:
        return float(y.mean()), 0.0
    slope, base = np.polyfit(x, y, 1)
    if slope <= 0:
        return float(y.mean()), 0.0
    if base < 0:
        return 0.0, float((x * y).sum() / (x * x).sum())
    return float(base), float(slope)


def _spread(ratios: NDArray[np.float64]) -> tuple[float, ...]:
    """Evenly spaced quantiles, scaled so that the mean of what is drawn from them is 1."""
    found = np.maximum(np.quantile(ratios, _QUANTILES), 1e-3)
    mean = (found[1:] + found[:-1]).mean() / 2
    return tuple(round(float(value), 4) for value in found / mean)
