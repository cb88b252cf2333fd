"""Which rows the table of baselines has, in order, and how each is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial

from torch import Tensor

from resq_core.errors import OptionError
from resq_core.evaluation import Step
from resq_core.experiments.steps import (
    float_step,
    frame_precision,
    hold_precision,
    keyframe_precision,
    stream_step,
)
from resq_core.model import QuantizedModel
from resq_core.precision import Precision
from resq_core.residual import Reference
from resq_core.rivals.flow import DisFlow
from resq_core.rivals.frame_levels import (
    FLOAT,
    SKIP,
    FrameLevels,
    oracle_step,
    replay_step,
    shuffled,
)
from resq_core.rivals.mixed import mixed_step
from resq_core.rivals.skip_conv import SkipConv
from resq_core.rivals.warping import FeatureWarping

__all__ = ["Row", "Settings", "plan"]

_MOST_SEEDS = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        method: `float`, `frame`, `mixed`, `hold`, `resq`, `skip-conv`, `warping`, `oracle` or
            `random`.
        precision: what it runs at, for people.
        setting: what else makes it this row, for people; may be empty.
        open_step: opens a fresh step for `evaluate_clip`.
        choices: what an oracle chose, frame by frame, once its step has run; the random rows behind
            it read the same list.
    """

    method: str
    precision: str
    setting: str
    open_step: Callable[[], Step]
    choices: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Names the row among those of a table."""
        return " | ".join((self.method, self.precision, self.setting))


@dataclass(frozen=True, slots=True)
class Settings:
    """What the table is to hold.

    Attributes:
        precisions: of frames (W8A8) and with residuals, static and dynamic; one of frames at least.
            The first of frames is what Skip-Convolutions and warping run at.
        period: T of everything that has keyframes, 2 or more.
        thresholds: ρ of the dynamic precisions.
        skip_thresholds: ε of Skip-Convolutions.
        budgets: of the oracle, shares of places.
        seeds: how many random orders of its choices, 0 to 100.

    Raises:
        OptionError: one of these does not hold.
    """

    precisions: tuple[Precision, ...]
    period: int
    thresholds: tuple[float, ...]
    skip_thresholds: tuple[float, ...]
    budgets: tuple[float, ...]
    seeds: int

    def __post_init__(self) -> None:
        if not self.frames:
            raise OptionError("the precisions hold none of single frames; expected one as W8A8")
        if self.period < 2:
            raise OptionError(f"period T is {self.period}; expected 2 or more")
        if not 0 <= self.seeds <= _MOST_SEEDS:
            raise OptionError(f"seeds is {self.seeds}; expected 0 to {_MOST_SEEDS}")

    @property
    def frames(self) -> list[Precision]:
        """Precisions of single frames."""
        return [p for p in self.precisions if p.is_frame]

    @property
    def static(self) -> list[Precision]:
        """Static ResQ."""
        return [p for p in self.precisions if len(p.pool) == 1 and not p.is_hold]

    @property
    def dynamic(self) -> list[Precision]:
        """Dynamic-ResQ."""
        return [p for p in self.precisions if p.is_dynamic]

    @property
    def needed(self) -> list[Precision]:
        """All that the model has to be calibrated for."""
        residual = [*self.static, *self.dynamic]
        return list(
            dict.fromkeys(
                [
                    *self.precisions,
                    *map(keyframe_precision, residual),
                    *map(frame_precision, self.static),
                ]
            )
        )


def plan(model: QuantizedModel, settings: Settings, example: Tensor, head: str | None) -> list[Row]:
    """The table's rows, checked before the first of them runs.

    Args:
        model: calibrated for `settings.needed`.
        settings: what it is to hold.
        example: an input of the size that frames will have, float32 [1, C, H, W].
        head: the layer from which on `warping` runs the network in every frame, in a row beside
            that which warps the output; None for no such row.

    Raises:
        CalibrationError: the model is not calibrated for a precision.
        OptionError: OpenCV, which `warping` needs, is not installed; the network has no such layer,
            or cannot be cut there.
        InputError: the frames are too small for optical flow.
    """
    for p in settings.needed:
        model.with_precision(p)

    @cache
    def at(p: Precision) -> QuantizedModel:
        return model.with_precision(p)

    return [*_own(model, at, settings), *_others(model, at, settings, example, head)]


def _own(
    model: QuantizedModel, at: Callable[[Precision], QuantizedModel], settings: Settings
) -> Iterator[Row]:
    period = settings.period
    yield Row("float", "W32A32", "", partial(float_step, model))
    for p in settings.frames:
        yield Row("frame", str(p), "", partial(stream_step, at(p), 1))
    residual = [*settings.static, *settings.dynamic]
    holds = {keyframe_precision(p): hold_precision(p) for p in residual}  # one for each keyframe
    for key, hold in holds.items():
        yield Row("hold", str(key), "", partial(stream_step, at(hold), period))
    for p in settings.static:
        key, between = keyframe_precision(p), frame_precision(p)
        step = partial(mixed_step, at(key), at(between), period)
        yield Row("mixed", f"{key}, {between}", "", step)
    for p in settings.static:
        for reference in Reference:
            options = {"reference": str(reference)}
            step = partial(stream_step, at(p), period, **options)
            yield Row("resq", str(p), str(reference), step)
    for p in settings.dynamic:
        for reference in Reference:
            for threshold in settings.thresholds:
                options = {"reference": str(reference), "policy": "relative"}
                step = partial(stream_step, at(p), period, threshold=threshold, **options)
                yield Row("resq", str(p), f"{reference}, ρ = {threshold:g}", step)


def _others(
    model: QuantizedModel,
    at: Callable[[Precision], QuantizedModel],
    settings: Settings,
    example: Tensor,
    head: str | None,
) -> Iterator[Row]:
    period, base = settings.period, at(settings.frames[0])
    for in_float in (True, False):
        for threshold in settings.skip_thresholds:
            skip = partial(SkipConv, base, threshold, period, in_float)
            precision = "W32A32" if in_float else str(base.precision)
            yield Row("skip-conv", precision, f"ε = {threshold:g}", skip)
    flow = DisFlow()
    for layer in [None] if head is None else [None, head]:
        what = "output" if layer is None else f"input of {layer}"
        warping = partial(FeatureWarping, base, period, flow, layer)
        warping().prepare(example)
        yield Row("warping", str(base.precision), what, warping)
    names = (SKIP, *map(str, settings.frames), FLOAT)
    levels = FrameLevels(model, names)
    for budget in settings.budgets:
        yield from _frame_levels(levels, budget, settings.seeds)


def _frame_levels(levels: FrameLevels, budget: float, seeds: int) -> Iterator[Row]:
    choices: list[str] = []
    what, setting = ", ".join(levels.names), f"budget {budget:g}"

    def open_oracle() -> Step:
        choices.clear()
        return oracle_step(levels, budget, choices)

    yield Row("oracle", what, setting, open_oracle, choices)
    for seed in range(seeds):

        def open_random(seed: int = seed) -> Step:
            return replay_step(levels, shuffled(choices, seed))

        yield Row("random", what, f"{setting}, seed {seed}", open_random, choices)
