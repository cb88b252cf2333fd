"""Which frames of a clip run, from which keyframe, and which of them are scored.

T is the period: frames from one keyframe to the next.

- `EVERY_FRAME`: the clip is split into sequences of T frames, and every frame is scored (Sec. 5 of
  the paper). In phase p sequences begin at 0, p, p + T, p + 2T, …
- `SPARSE`: for a label at frame n, the T sequences whose keyframes lie 0 … T − 1 frames before it
  run up to it, and it alone is scored, once at every position (Sec. 5.2).
- `WHOLE_CLIP`: one stream from the first frame on, as the DAVIS benchmark has it; every frame
  costs, and all but the first, whose masks are given, and the last are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from resq_core.errors import InputError, OptionError
from resq_core.evaluation.datasets.clips import LabelledClip, Protocol

__all__ = ["Run", "check_phases", "plan"]

_MAX_PHASES = 1000
_LEAST_SCORED = 3  # frames of a clip whose first and last are not scored


@dataclass(frozen=True, slots=True)
class Run:
    """Frames through one stream.

    Attributes:
        frames: indices, consecutive; the first one is a keyframe.
        scored: indices whose outputs are compared with labels.
        counted: indices whose cost counts.
    """

    frames: range
    scored: range
    counted: range


def plan(
    clip: LabelledClip,
    protocol: Protocol,
    period: int,
    phases: Sequence[int] = (0,),
    alone: bool = False,
) -> list[Run]:
    """What to run of a clip.

    Args:
        clip: its frames are counted, not read.
        protocol: see above.
        period: T, from 1.
        phases: of `EVERY_FRAME`: 1 to 1,000 indices from 0; only (0,) of others.
        alone: each frame's output depends on that frame alone, so that a sparse label needs no
            frame before it.

    Raises:
        InputError: the clip, or what is before its label, is shorter than T.
        OptionError: phases out of range, or for another protocol.
    """
    check_phases(phases)
    if protocol is not Protocol.EVERY_FRAME and list(phases) != [0]:
        raise OptionError(f"phases are for clips whose every frame is scored, not {protocol}")
    frames = len(clip.frames)
    if frames < period:
        raise InputError(f"{clip.name} has {frames} frames; expected at least T = {period}")
    if protocol is Protocol.EVERY_FRAME:
        return [run for phase in phases for run in _sequences(frames, period, phase)]
    if protocol is Protocol.SPARSE:
        return [run for n in clip.labels for run in _before(clip, n, period, alone)]
    if frames < _LEAST_SCORED:
        raise InputError(
            f"{clip.name} has {frames} frames; expected {_LEAST_SCORED}: the first and the last "
            "are not scored"
        )
    return [Run(range(frames), range(1, frames - 1), range(frames))]


def check_phases(phases: Sequence[int]) -> None:
    """Raise OptionError unless they are 1 to 1,000 indices from 0."""
    if not 1 <= len(phases) <= _MAX_PHASES or min(phases) < 0:
        raise OptionError(
            f"phases are {list(phases)[:8]}; expected 1 to {_MAX_PHASES} indices from 0"
        )


def _sequences(frames: int, period: int, phase: int) -> Iterator[Run]:
    before = range(0, min(phase, frames), period)  # what comes before the phase is split as well
    borders = sorted({*before, *range(phase, frames, period)})
    for first, last in zip(borders, [*borders[1:], frames], strict=True):
        own = range(first, last)
        yield Run(own, own, own)


def _before(clip: LabelledClip, label: int, period: int, alone: bool) -> Iterator[Run]:
    if label < period - 1:
        raise InputError(
            f"{clip.name} has {label} frames before its label; expected at least T - 1 = "
            f"{period - 1}"
        )
    own = range(label, label + 1)
    for position in range(1 if alone else period):
        yield Run(range(label - position, label + 1), own, own)
