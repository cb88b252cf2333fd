"""One video stream through a shared model: the keyframe clock, the state, the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from resq_core.bops import Counting, FrameBops, LayerReport, Totals, weighted_mean
from resq_core.errors import OptionError, StreamClosedError
from resq_core.executor import REFRESH_PAYS, FrameRun, GivenUpError
from resq_core.policy import Policy
from resq_core.precision import Precision
from resq_core.residual import Reference
from resq_core.runtime import Runtime
from resq_core.state import StreamState

__all__ = ["MAX_PERIOD", "StepResult", "Stream", "StreamOptions"]

MAX_PERIOD = 1_000_000

_MOST_WITHOUT_REFRESH = 16  # keyframes
_MOST_BUSY = 32  # keyframes in a row
_TRIED_AGAIN = 1.02  # what each frame given up moves the learned share by


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream runs; checked when made.

    Attributes:
        period: T, frames from one keyframe to the next, 1 to `MAX_PERIOD`.
        reference: what a residual is taken against.
        policy: form, threshold, and factors on it by layer.
        max_active: a residual frame with a larger share of active outputs than this, or of
            active pixels in its input, is busy; 0 to 1, and 1 never. The latter becomes a
            keyframe at once; so does, after one with too many outputs, another whose input
            changes about as much. The second busy frame in a row is followed by a keyframe, and
            each one more by twice as many, up to 32. On a clock a residual frame of a picture
            that changes everywhere costs more than a keyframe; in bit operations it still costs
            less.

    Raises:
        OptionError: the message names the option and what was expected.
    """

    period: int
    reference: Reference
    policy: Policy
    max_active: float = 1.0

    @classmethod
    def of(
        cls,
        period: int,
        reference: str,
        policy: str,
        threshold: float | None,
        factors: Mapping[str, float] | None = None,
        max_active: float = 1.0,
    ) -> StreamOptions:
        """Check plain values; a threshold of None takes the policy's default."""
        if reference not in list(Reference):
            raise OptionError(
                f"reference is {reference!r}; expected one of {[str(r) for r in Reference]}"
            )
        checked = Policy.of(policy, threshold, factors)
        if not isinstance(max_active, (int, float)) or not 0 <= max_active <= 1:
            raise OptionError(f"max_active is {max_active!r}; expected a share from 0 to 1")
        return cls(_checked_period(period), Reference(reference), checked, float(max_active))

    def but(
        self,
        period: int | None = None,
        reference: str | None = None,
        policy: str | None = None,
        threshold: float | None = None,
        factors: Mapping[str, float] | None = None,
        max_active: float | None = None,
    ) -> StreamOptions:
        """These options with some replaced.

        A new policy form brings its own threshold, and no factors.
        """
        if policy is None or policy == self.policy.form:
            threshold = self.policy.threshold if threshold is None else threshold
            factors = self.policy.factors if factors is None else factors
        return StreamOptions.of(
            self.period if period is None else period,
            self.reference if reference is None else reference,
            self.policy.form if policy is None else policy,
            threshold,
            factors,
            self.max_active if max_active is None else max_active,
        )


def _checked_period(period: int) -> int:
    valid = isinstance(period, int) and not isinstance(period, bool)
    if not valid or not 1 <= period <= MAX_PERIOD:
        raise OptionError(f"period T is {period!r}; expected a whole number from 1 to {MAX_PERIOD}")
    return period


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one frame gave.

    Attributes:
        output: what the network returns: a float32 tensor, or a nest of them; the caller's own,
            on the model's device.
        is_anchor: the frame ran as a keyframe.
        reason: why: `first_frame`, `size_changed`, `period`, `busy` (see `max_active`), or what
            the caller gave; None for residual frames.
        index: frames before this one in the stream.
        bops: bit operations beside their baselines, every layer counted.
        bops_paper: the same as the paper's tables count: without the first and the last layer.
        mean_bits: activation bits averaged over layers by their MACs, 0 to 8.
        active_fraction: output pixels computed, halo included, weighted by MACs, 0 to 1.
        clipped_fraction: residual values that the top quantizer clamped, weighted by MACs.
            If it stays above a percent or so, calibrate on livelier clips.
        bit_map: float32 [ceil(H/8), ceil(W/8)] of bits, 0 to 8, on the CPU, or None if not asked
            for.
        layers: a report per layer, or None if not asked for.
        backend: which one ran it, for people: `native` and its instruction set, or `reference`, and
            the device where that is not the CPU.
    """

    output: Any
    is_anchor: bool
    reason: str | None
    index: int
    bops: FrameBops
    bops_paper: FrameBops
    mean_bits: float
    active_fraction: float
    clipped_fraction: float
    bit_map: Tensor | None
    layers: tuple[LayerReport, ...] | None
    backend: str


class Stream:
    """State and clock of one video. One thread at a time steps a stream; models are shared."""

    def __init__(self, runtime: Runtime, precision: Precision, options: StreamOptions) -> None:
        self._runtime, self._precision, self._options = runtime, precision, options
        self._state = StreamState()
        self._totals, self._totals_paper = Totals(), Totals()
        self._closed = False

    @property
    def precision(self) -> Precision:
        """The bits that the stream runs at."""
        return self._precision

    @property
    def options(self) -> StreamOptions:
        """Period, reference and policy in force for the next frame."""
        return self._options

    @property
    def totals(self) -> Totals:
        """Running sums over all frames so far, every layer counted."""
        return self._totals

    @property
    def totals_paper(self) -> Totals:
        """The same without each frame's first and last layer, as the paper counts."""
        return self._totals_paper

    @property
    def nbytes(self) -> int:
        """Bytes of keyframe activations that the stream holds."""
        return self._state.nbytes

    @property
    def anchor_due(self) -> bool:
        """The clock makes the next frame a keyframe, whatever the frame holds."""
        return self._period_ends or self._state.residuals.left > 0

    @property
    def _period_ends(self) -> bool:
        since = self._state.since_anchor
        return since == 0 or self._precision.is_frame or since >= self._options.period

    def update(self, period: int | None = None, threshold: float | None = None) -> None:
        """Change the period T or the policy threshold from the next frame on.

        Raises:
            OptionError: out of range; nothing is changed then.
        """
        self._options = self._options.but(period=period, threshold=threshold)

    def close(self) -> None:
        """Give the state's memory back at once; later steps raise `StreamClosedError`."""
        self._state.clear()
        self._closed = True

    def step(
        self,
        x: Tensor | Sequence[Tensor],
        bit_map: bool = False,
        layers: bool = False,
        anchor: str | None = None,
    ) -> StepResult:
        """Run the next frame.

        Args:
            x: float32 input of the network, e.g. [1, 3, H, W]; a sequence for several inputs. It
                is moved to the model's device.
            bit_map: also return where the bits went.
            layers: also return a report per layer.
            anchor: a reason to run this frame as a keyframe whatever the clock says; it is what
                the result then names, also where the size has changed.

        Raises:
            InputError: the frame is unusable; the stream goes on as if it had not come.
            CaptureError: the network cannot run at this size.
            StreamClosedError: after `close`.
        """
        if self._closed:
            raise StreamClosedError("the stream is closed; open a new one")
        inputs = self._runtime.inputs(x)
        reason = self._anchor_reason(inputs, anchor)
        if self._state.input_shapes != tuple(tuple(t.shape) for t in inputs):
            self._state.memory = None  # of another size: nothing in it can be refreshed
        gave_up = False
        try:
            with torch.no_grad():
                try:
                    run = self._run(inputs, reason is not None, bit_map)
                except GivenUpError:
                    gave_up, reason = True, "busy"
                    run = self._run_anchor(inputs, False, bit_map)
        except BaseException:
            self._state.clear()  # half a frame is in it; the next frame starts afresh
            raise
        active = weighted_mean(run.layers, "active_fraction")
        self._note_activity(run, active, reason is not None, gave_up)
        state = self._state
        state.since_anchor = 1 if reason is not None else state.since_anchor + 1
        state.input_shapes = tuple(tuple(t.shape) for t in inputs)
        backend = self._runtime.serving(inputs).backend
        return self._result(run, backend, reason, active, layers)

    def _anchor_reason(self, inputs: Sequence[Tensor], given: str | None) -> str | None:
        state = self._state
        if state.since_anchor == 0:
            return "first_frame" if self._totals.frames == 0 else given or "restart"
        if state.input_shapes != tuple(tuple(t.shape) for t in inputs):
            return given or "size_changed"
        if given is not None:
            return given
        if state.residuals.left > 0 and not self._precision.is_frame:
            return "busy"
        return "period" if self._period_ends else None

    def _note_activity(self, run: FrameRun, active: float, is_anchor: bool, gave_up: bool) -> None:
        """Remember whether what this frame was made as, or was to be, has paid."""
        state, most = self._state, self._options.max_active
        if run.refreshed:
            state.refreshes.note(active <= REFRESH_PAYS, _MOST_WITHOUT_REFRESH)
        if is_anchor and not gave_up:
            state.residuals.waits()
            return
        if self._precision.is_hold:
            return
        if not gave_up and active <= most:
            state.busy = 0
            state.residuals.note(True, _MOST_BUSY)
            return
        if not gave_up:
            state.most = run.layers[0].input_active_fraction * most / active
        elif state.most is not None:  # what is never tried is never learned
            state.most *= _TRIED_AGAIN
        state.busy += 1
        if state.busy > 1:  # one alone may be a video's own keyframe, and the next frame quiet
            state.residuals.note(False, _MOST_BUSY)

    def _run(self, inputs: Sequence[Tensor], is_anchor: bool, bit_map: bool) -> FrameRun:
        state, options = self._state, self._options
        if is_anchor:
            still = state.memory is not None and state.residuals.left == 0
            try:
                run = self._run_anchor(inputs, still and not state.refreshes.waits(), bit_map)
            except GivenUpError:
                state.refreshes.note(False, _MOST_WITHOUT_REFRESH)
                run = self._run_anchor(inputs, False, bit_map)
            if self._precision.is_hold:
                state.output = _copy(run.output)
            return run
        if self._precision.is_hold:
            return self._runtime.run_nothing(inputs, _copy(state.output), bit_map)
        most = options.max_active
        if state.most is not None:
            most = min(most, state.most)
        return self._runtime.run_residual(
            inputs, state, options.reference, options.policy, bit_map, most
        )

    def _run_anchor(self, inputs: Sequence[Tensor], refresh: bool, bit_map: bool) -> FrameRun:
        state, runtime = self._state, self._runtime
        if state.residuals.left > 1:  # the next frame is a keyframe as well
            return runtime.run_anchor(inputs, StreamState(), None, False, bit_map)
        keeps = not self._precision.is_frame and not self._precision.is_hold
        reference = self._options.reference if keeps else None
        return runtime.run_anchor(inputs, state, reference, refresh, bit_map)

    def _result(
        self, run: FrameRun, backend: str, reason: str | None, active: float, layers: bool
    ) -> StepResult:
        bops = FrameBops.of(run.layers)
        bops_paper = FrameBops.of(run.layers, Counting.PAPER)
        mean_bits = weighted_mean(run.layers, "mean_bits")
        index = self._totals.frames
        self._totals.add(bops, mean_bits, reason is not None)
        self._totals_paper.add(bops_paper, mean_bits, reason is not None)
        return StepResult(
            output=run.output,
            is_anchor=reason is not None,
            reason=reason,
            index=index,
            bops=bops,
            bops_paper=bops_paper,
            mean_bits=mean_bits,
            active_fraction=active,
            clipped_fraction=weighted_mean(run.layers, "clipped_fraction"),
            bit_map=None if run.bit_map is None else run.bit_map.cpu(),
            layers=tuple(run.layers) if layers else None,
            backend=backend,
        )


def _copy(output: Any) -> Any:
    return pytree.tree_map_only(Tensor, torch.clone, output)
