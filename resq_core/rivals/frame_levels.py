"""One precision per frame, as VideoIQ chooses it (Sun et al., ICCV 2021).

VideoIQ's policy is a trained network. Here an oracle takes its place, which sees the float output
of every frame: no policy can choose a cheaper precision within the same budget. Beside it, the same
choices in a random order, which cost the same. Neither is charged for choosing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from resq_core.errors import InputError, OptionError
from resq_core.evaluation import Step, StepOutcome
from resq_core.experiments.steps import FLOAT_BITS, float_step, stream_step
from resq_core.model import QuantizedModel
from resq_core.precision import Precision

__all__ = ["FLOAT", "SKIP", "FrameLevels", "agreement", "oracle_step", "replay_step", "shuffled"]

SKIP, FLOAT = "skip", "float"


class FrameLevels:
    """What a frame may be run at: `skip` (the output before it again), precisions, `float`.

    Args:
        model: calibrated for the precisions.
        levels: one at least beside `skip`, in any order.

    Raises:
        OptionError: none beside `skip`, or a precision with residual frames.
        PrecisionError, CalibrationError: a precision does not parse, or is not calibrated.
    """

    def __init__(self, model: QuantizedModel, levels: Sequence[str]) -> None:
        steps: dict[str, Step] = {}
        costs: dict[str, int] = {}
        for level in levels:
            if level == SKIP:
                costs[level] = 0
            elif level == FLOAT:
                costs[level], steps[level] = FLOAT_BITS * FLOAT_BITS, float_step(model)
            else:
                p = Precision.parse(level)
                if not p.is_frame:
                    raise OptionError(f"level is {level}; expected skip, float, or as W8A8")
                costs[level] = p.weight_bits * p.activation_bits
                steps[level] = stream_step(model.with_precision(p), 1)
        if not steps:
            raise OptionError("expected one level at least that runs the network")
        self.names = tuple(sorted(costs, key=costs.__getitem__))
        self._model, self._steps = model, steps

    def float(self, x: Tensor) -> Tensor:
        """The float network's output, which no frame is charged for."""
        output: Tensor = self._model.float(x)
        return output

    def run(self, name: str, x: Tensor, before: Tensor | None) -> StepOutcome:
        """One frame at one level; `before` is the output that `skip` repeats.

        Raises InputError where there is none to repeat.
        """
        if name != SKIP:
            return self._steps[name](x)
        if before is None:
            raise InputError("the first frame cannot be skipped; there is no output to repeat")
        return StepOutcome(before, 0, 0, 0, is_anchor=False)


def agreement(logits: Tensor, other: Tensor) -> float:
    """The share of places [1, K, h, w] whose largest logit is of the same class, 0 to 1."""
    return (logits.argmax(1) == other.argmax(1)).double().mean().item()


def oracle_step(levels: FrameLevels, budget: float, choices: list[str]) -> Step:
    """Each frame at the cheapest level whose output agrees with the float one but for `budget`.

    Where no level does, at the one that agrees most.

    Args:
        levels: to choose from.
        budget: share of places that may have another class than in float, 0 to 1.
        choices: every frame's level is appended.

    Raises:
        OptionError: a budget outside 0 to 1.
    """
    if not 0 <= budget <= 1:
        raise OptionError(f"budget is {budget}; expected a share from 0 to 1")
    before: Tensor | None = None

    def step(x: Tensor) -> StepOutcome:
        nonlocal before
        wanted = levels.float(x)
        best: tuple[float, str, StepOutcome] | None = None
        for name in levels.names:
            if name == SKIP and before is None:
                continue
            outcome = levels.run(name, x, before)
            agrees = agreement(outcome.logits, wanted)
            if best is None or agrees > best[0]:
                best = agrees, name, outcome
            if 1 - agrees <= budget:
                best = agrees, name, outcome
                break
        assert best is not None
        _, name, outcome = best
        choices.append(name)
        before = outcome.logits
        return outcome

    return step


def replay_step(levels: FrameLevels, choices: Sequence[str]) -> Step:
    """Each frame at the level that `choices` has for it.

    Raises (at the frame) InputError past their end, or where the first is `skip`.
    """
    before: Tensor | None = None
    index = -1

    def step(x: Tensor) -> StepOutcome:
        nonlocal before, index
        index += 1
        if index >= len(choices):
            raise InputError(f"there are {len(choices)} choices; expected one for every frame")
        outcome = levels.run(choices[index], x, before)
        before = outcome.logits
        return outcome

    return step


def shuffled(choices: Sequence[str], seed: int) -> list[str]:
    """The same choices in a random order, the first frame's in its place: it cannot be a skip."""
    rest = np.random.default_rng(seed).permutation(list(choices[1:])).tolist()
    return [*choices[:1], *rest]
