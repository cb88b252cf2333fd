"""A data set through several ways of running a network, clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from resq_core.errors import InputError
from resq_core.evaluation.costs import Costs
from resq_core.evaluation.datasets.clips import DataSet, LabelledClip
from resq_core.evaluation.plans import Run, plan
from resq_core.evaluation.scores import Score
from resq_core.evaluation.state import EvaluationState
from resq_core.tasks.pictures import Picture

__all__ = ["Answer", "Evaluator", "Row"]


class Answer(NamedTuple):
    """One frame: the task's prediction, and what it cost.

    output: class ids or object ids uint8 [H, W] of the picture's size, or a `Pose`.
    bops, policy_bops: bit operations. mean_bits: of activations, weighted by MACs.
    """

    output: Any
    bops: float
    policy_bops: float
    mean_bits: float
    is_anchor: bool


@dataclass(frozen=True, eq=False)
class Row:
    """One way of running a network.

    Attributes:
        name: its key in results.
        open: gives a fresh stream, from what `LabelledClip.start` says; it is called with the
            frames in order, and keeps its own clock.
        alone: each frame's output depends on that frame alone.
    """

    name: str
    open: Callable[[Any], Callable[[Picture], Answer]]
    alone: bool = False


class Evaluator:
    """Scores rows on all clips of a data set.

    A clip that cannot be used, as its plan, its files or its labels turn out, costs only itself:
    it is left out of every row, and named in the result.

    Args:
        data: clips.
        rows: with names of their own.
        new_score: makes an empty score for the data set's task.
        period: T, see `plan`.
        phases: see `plan`.
        state: what was finished before, and where to keep what will be.

    Raises:
        OptionError: phases that do not fit the data set.
    """

    def __init__(
        self,
        data: DataSet,
        rows: Sequence[Row],
        new_score: Callable[[], Score],
        period: int,
        phases: Sequence[int],
        state: EvaluationState,
    ) -> None:
        self._data, self._rows, self._new_score = data, rows, new_score
        self._period, self._phases, self._state = period, phases, state
        self._skipped: dict[str, str] = {}
        self._plans: dict[tuple[str, str], list[Run]] = {}
        for clip in data.clips:
            try:
                plans = [plan(clip, data.protocol, period, phases, row.alone) for row in rows]
            except InputError as error:
                self._skipped[clip.name] = str(error)
            else:
                for row, runs in zip(rows, plans, strict=True):
                    self._plans[row.name, clip.name] = runs

    def frames(self, row: str) -> int:
        """How many frames a row runs, all clips together."""
        return sum(_length(runs) for (own, _), runs in self._plans.items() if own == row)

    def run(self, tell: Callable[[str, int], object] = lambda _row, _frames: None) -> None:
        """Run whatever the state has not.

        Args:
            tell: called with a row's name and how many of its frames are done more.
        """
        for clip in self._data.clips:
            if clip.name in self._skipped:
                continue
            try:
                for row in self._rows:
                    self._run_row(row, clip, tell)
            except InputError as error:
                self._skipped[clip.name] = str(error)

    def _run_row(self, row: Row, clip: LabelledClip, tell: Callable[[str, int], object]) -> None:
        runs = self._plans[row.name, clip.name]
        if self._state.get(row.name, clip.name) is not None:
            tell(row.name, _length(runs))
            return
        score, costs = self._new_score(), Costs()
        for run in runs:
            _follow(row, clip, run, score, costs, lambda: tell(row.name, 1))
        record = {"score": score.record(), "costs": costs.record()}
        self._state.add(row.name, clip.name, record)

    def result(self) -> dict[str, Any]:
        """All figures, of clips that every row has.

        Returns:
            `clips`: how many were scored; `skipped`: the others, each with its `clip` and
            `reason`; `rows`: figures by row, of the score's `means` and of `Costs.means`, means
            over splits; `splits`: the same by split, where there are several.

        Raises:
            InputError: a split has no clip that was scored, or the state's records are damaged.
        """
        found: dict[str, Any] = {
            "clips": len(self._data.clips) - len(self._skipped),
            "skipped": [{"clip": n, "reason": reason} for n, reason in self._skipped.items()],
        }
        splits = {split: self._rows_of(split, names) for split, names in self._data.splits.items()}
        found["rows"] = _average(list(splits.values()))
        if len(splits) > 1:
            found["splits"] = splits
        return found

    def _rows_of(self, split: str, names: Sequence[str]) -> dict[str, Any]:
        scored = [name for name in names if name not in self._skipped]
        if not scored:
            first = next(iter(names), None)
            reason = "it has none" if first is None else self._skipped[first]
            raise InputError(f"no clip of split {split} can be scored: {reason}")
        return {row.name: self._figures(row.name, scored) for row in self._rows}

    def _figures(self, row: str, clips: Sequence[str]) -> dict[str, Any]:
        score, costs = self._new_score(), Costs()
        for clip in clips:
            record = self._state.get(row, clip) or {}
            try:
                score.merge(record["score"])
                costs.merge(record["costs"])
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"what the state holds of {clip} in row {row} is damaged: {error}; "
                    "delete it to begin again"
                ) from error
        return score.means() | costs.means()


def _follow(
    row: Row,
    clip: LabelledClip,
    run: Run,
    score: Score,
    costs: Costs,
    tell: Callable[[], object],
) -> None:
    answer_of = row.open(clip.start(run.frames[0]))
    distance = 0
    for index in run.frames:
        answer = answer_of(clip.frames[index])
        distance = 0 if answer.is_anchor else distance + 1
        if index in run.scored:
            score.add(answer.output, clip.labels[index], distance)
        if index in run.counted:
            costs.add(*answer[1:])
        tell()


def _length(runs: Sequence[Run]) -> int:
    return sum(len(run.frames) for run in runs)


def _average(values: Sequence[Any]) -> Any:
    """The mean of figures of one structure, entry by entry; entries that are None do not count."""
    known = [value for value in values if value is not None]
    if not known or len(values) == 1:
        return values[0]
    if isinstance(known[0], Mapping):
        return {key: _average([value.get(key) for value in known]) for key in known[0]}
    if isinstance(known[0], list):
        longest = max(map(len, known))
        columns = ([value[i] for value in known if i < len(value)] for i in range(longest))
        return [_average(column) for column in columns]
    return sum(known) / len(known)
