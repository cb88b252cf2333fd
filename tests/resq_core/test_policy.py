from __future__ import annotations

import math

import pytest
import torch

from resq_core.errors import OptionError
from resq_core.policy import DEFAULT_THRESHOLD, Policy, PolicyForm, choose


def test_takes_the_first_quantizer_whose_next_gains_too_little() -> None:
    # pixels: no gain at all; gain from the first step only; gain from both
    errors = [
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([1.0, 0.5, 2.0]),
        torch.tensor([1.0, 0.4, 0.0]),
    ]
    assert choose(errors, 0.5).tolist() == [0, 1, 2]


def test_stops_at_the_first_small_gap_even_if_a_later_one_is_large() -> None:
    errors = [torch.tensor([2.0]), torch.tensor([1.9]), torch.tensor([0.0])]
    assert choose(errors, 0.5).tolist() == [0]


def test_a_pixel_without_change_gets_the_lowest_bits_at_threshold_zero() -> None:
    errors = [torch.zeros(3), torch.zeros(3), torch.zeros(3)]
    assert choose(errors, 0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("threshold", [-1e-9, math.nan, math.inf, "0.1", True])
def test_bad_thresholds(threshold: float) -> None:
    with pytest.raises(OptionError, match="expected a finite number of 0 or more"):
        Policy.of("relative", threshold)


def test_unknown_form() -> None:
    with pytest.raises(OptionError, match="relative"):
        Policy.of("nearest", 0.1)


def test_forms_scale_the_error_differently() -> None:
    assert Policy.of("paper", None) == Policy(PolicyForm.PAPER, DEFAULT_THRESHOLD[PolicyForm.PAPER])
    assert Policy.of("paper", 1.0).gain(weight_norm=4.0, keyframe_norm=2.0) == 4.0
    assert Policy.of("relative", 1.0).gain(weight_norm=4.0, keyframe_norm=2.0) == 0.5
    assert math.isfinite(Policy.of("relative", 1.0).gain(4.0, 0.0))


def test_factors_multiply_the_threshold_of_their_layer() -> None:
    policy = Policy.of("relative", 0.2, {"stem": 0.5})
    assert policy.threshold_for("stem") == 0.1
    assert policy.threshold_for("head") == 0.2


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf, "2", True])
def test_bad_factors(factor: float) -> None:
    with pytest.raises(OptionError, match=r"factor of layer 'stem' .* above 0"):
        Policy.of("relative", 0.1, {"stem": factor})
