from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_core import Precision
from resq_core.errors import PrecisionError, ResqError

bits = st.integers(0, 8)
precisions = st.builds(
    Precision,
    bits,
    bits,
    bits,
    st.sets(bits, min_size=1, max_size=4).map(lambda s: tuple(sorted(s))),
) | st.builds(Precision, bits, bits)


@given(precisions)
def test_printing_and_parsing_agree(precision: Precision) -> None:
    assert Precision.parse(str(precision)) == precision


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("W8A8", Precision(8, 8)),
        ("W8A8->W4A4", Precision(8, 8, 4, (4,))),
        (" W8A8 → W8A{0, 4, 8} ", Precision(8, 8, 8, (0, 4, 8))),
        ("W8A8->W8A[0,4,8]", Precision(8, 8, 8, (0, 4, 8))),
    ],
)
def test_notations(text: str, expected: Precision) -> None:
    assert Precision.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "W8", "W9A8", "W8A8->", "W8A8->W8A{}", "W8A8->W8A{8,4}", "W8A{4,8}", "W8A8->W8A8->W8A8",
     "w8a8", "W8A8->W8A{4,4}", "W8A-1", "W8A8" * 40],
)  # fmt: skip
def test_what_does_not_parse_says_what_was_expected(text: str) -> None:
    with pytest.raises(PrecisionError, match=r"expected") as caught:
        Precision.parse(text)
    assert isinstance(caught.value, ResqError)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 300


def test_kinds() -> None:
    assert Precision.parse("W8A4").is_frame
    assert Precision.parse("W8A8->W8A0").is_hold
    assert Precision.parse("W8A8->W8A{0,4,8}").is_dynamic
    assert not Precision.parse("W8A8->W8A4").is_dynamic
