from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resq_core.quantizer import code_range, fake_quantize, quantize_codes, scale_from_range

finite = st.floats(-100, 100, width=32)


@given(st.lists(finite, min_size=1, max_size=30), st.integers(1, 8))
def test_error_is_at_most_half_a_step_where_nothing_clamps(values: list[float], bits: int) -> None:
    x = torch.tensor(values)
    scale = scale_from_range(x.max(), x.min(), bits)
    low, high = code_range(bits)
    inside = (x / scale >= low - 0.5) & (x / scale <= high + 0.5)
    error = (fake_quantize(x, scale, bits) - x).abs()
    assert bool((error <= scale / 2 + 1e-5 * x.abs())[inside].all())


def test_equation_6() -> None:
    scale = scale_from_range(torch.tensor(3.0), torch.tensor(-5.0), 8)
    assert scale.item() == torch.tensor(2 * 5.0 / 255).item()


def test_without_a_sign_the_same_codes_are_twice_as_fine() -> None:
    reach, zero = torch.tensor(3.0), torch.tensor(0.0)
    fine, coarse = (scale_from_range(reach, zero, 4, signed) for signed in (False, True))
    assert fine.item() == pytest.approx(3 / 15)
    assert coarse.item() == pytest.approx(2 * fine.item())
    assert quantize_codes(reach, fine, 4, signed=False).item() == 15
    x = torch.rand(1000) * 3
    errors = [
        (fake_quantize(x, s, 4, signed) - x).abs().max().item()
        for s, signed in ((fine, False), (coarse, True))
    ]
    assert errors[0] <= fine.item() / 2 + 1e-6 < errors[1]


def test_rounds_half_to_even() -> None:
    codes = quantize_codes(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), 1.0, 8)
    assert codes.tolist() == [0, 2, 2, 0, -2]


def test_codes_stay_in_range() -> None:
    x = torch.linspace(-1e6, 1e6, 101)
    for bits in range(1, 9):
        for signed in (True, False):
            codes = quantize_codes(x, 0.1, bits, signed)
            assert (codes.min().item(), codes.max().item()) == code_range(bits, signed)


def test_zero_bits_and_zero_ranges_never_divide_by_zero() -> None:
    zero = torch.zeros(4)
    assert quantize_codes(torch.ones(4), 0.0, 0).tolist() == [0.0] * 4
    assert fake_quantize(torch.ones(4), 0.0, 0).tolist() == [0.0] * 4
    for bits in range(9):
        scale = scale_from_range(zero.max(), zero.min(), bits)
        assert scale.item() == 1.0
        assert fake_quantize(zero, scale, bits).tolist() == [0.0] * 4


def test_gradient_passes_straight_through_where_nothing_clamps() -> None:
    x = torch.tensor([-100.0, -0.3, 0.0, 0.4, 100.0], requires_grad=True)
    fake_quantize(x, 0.1, 4).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
