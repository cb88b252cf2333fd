"""Which residual pixel gets which quantizer: Eq. 9–11, in the paper's form and a relative one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


DEFAULT_THRESHOLD = {PolicyForm.PAPER: 3e-4, PolicyForm.RELATIVE: 0.03}
"""The paper's τ, and a ρ well below where an aligned pool stops sending (docs/experiments.md)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A form and its threshold.

    Attributes:
        form: how a gap is measured.
        threshold: τ or ρ, 0 or more.
        factors: on the threshold, by layer name, each above 0; 1 for layers that are not named.

    Raises:
        OptionError: a form that does not exist, or a threshold or factor that is out of range.
    """

    form: PolicyForm
    threshold: float
    factors: Mapping[str, float] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls, form: str, threshold: float | None, factors: Mapping[str, float] | None = None
    ) -> Policy:
        """Check and build; a threshold of None takes the form's default."""
        if form not in list(PolicyForm):
            raise OptionError(f"policy is {form!r}; expected one of {[str(f) for f in PolicyForm]}")
        known = PolicyForm(form)
        return cls(
            known, DEFAULT_THRESHOLD[known] if threshold is None else threshold, dict(factors or {})
        )

    def __post_init__(self) -> None:
        if not _is_number(self.threshold) or self.threshold < 0:
            raise OptionError(
                f"policy threshold is {self.threshold!r}; expected a finite number of 0 or more"
            )
        for layer, factor in self.factors.items():
            if not _is_number(factor) or factor <= 0:
                raise OptionError(
                    f"the threshold factor of layer {layer!r} is {factor!r}; expected a finite "
                    "number above 0"
                )

    def threshold_for(self, layer: str) -> float:
        """The threshold of one layer."""
        return self.threshold * self.factors.get(layer, 1.0)

    def gain(self, weight_norm: float, keyframe_norm: float) -> float:
        """Factor on ‖δ − q(δ)‖: ‖ŵ‖_F, or one over the mean keyframe pixel norm mean‖x^k‖."""
        if self.form is PolicyForm.PAPER:
            return weight_norm
        return 1.0 / max(keyframe_norm, 1e-12)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)


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
