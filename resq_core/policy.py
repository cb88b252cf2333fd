"""Which residual pixel gets which quantizer: Eq. 9–11, in the paper's form and a relative one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from resq_core.errors import OptionError

__all__ = ["DEFAULT_THRESHOLD", "Policy", "PolicyForm", "choose"]


class PolicyForm(StrEnum):
    """How an error gap is measured before it is compared with the threshold.

    PAPER: ‖δ − q(δ)‖·‖ŵ‖_F against an absolute τ (Eq. 10, 11). τ then means something else in
        every layer and network.
    RELATIVE: ‖δ − q(δ)‖ divided by the layer's mean keyframe pixel norm, against one ρ for all
        layers.
    """

    PAPER = "paper"
    RELATIVE = "relative"


DEFAULT_THRESHOLD = {PolicyForm.PAPER: 3e-4, PolicyForm.RELATIVE: 0.1}
"""The paper's τ, and the ρ that measured best on a moving-camera clip (docs/experiments.md)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A form and its threshold.

    Raises:
        OptionError: a form that does not exist, or a threshold that is negative or not finite.
    """

    form: PolicyForm
    threshold: float

    @classmethod
    def of(cls, form: str, threshold: float | None) -> Policy:
        """Check and build; a threshold of None takes the form's default."""
        if form not in list(PolicyForm):
            raise OptionError(f"policy is {form!r}; expected one of {[str(f) for f in PolicyForm]}")
        known = PolicyForm(form)
        return cls(known, DEFAULT_THRESHOLD[known] if threshold is None else threshold)

    def __post_init__(self) -> None:
        valid = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not valid or not math.isfinite(self.threshold) or self.threshold < 0:
            raise OptionError(
                f"policy threshold is {self.threshold!r}; expected a finite number of 0 or more"
            )

    def gain(self, weight_norm: float, keyframe_norm: float) -> float:
        """Factor on ‖δ − q(δ)‖: ‖ŵ‖_F, or one over the mean keyframe pixel norm mean‖x^k‖."""
        if self.form is PolicyForm.PAPER:
            return weight_norm
        return 1.0 / max(keyframe_norm, 1e-12)


def choose(errors: Sequence[Tensor], threshold: float) -> Tensor:
    """Eq. 11: the first quantizer i whose next one lowers the error by less than τ.

    The last quantizer is the fallback. A next quantizer that lowers nothing never pays, so a gap
    of zero stops whatever τ is: a pixel without a change gets the lowest bits even at τ = 0.

    Args:
        errors: ε_1…ε_n, one map per quantizer from low to high bits, all of one shape.
        threshold: τ ≥ 0.

    Returns:
        int64 index map of that shape, values 0 to n − 1.
    """
    index = torch.full_like(errors[0], len(errors) - 1, dtype=torch.int64)
    for i in range(len(errors) - 2, -1, -1):
        gap = errors[i] - errors[i + 1]
        index = index.masked_fill_((gap < threshold) | (gap <= 0), i)
    return index
