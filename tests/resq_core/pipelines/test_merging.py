from __future__ import annotations

import pytest
import torch
from torch import Tensor

from resq_core.bops import FrameBops, LayerReport, weighted_mean
from resq_core.pipelines.merging import merge
from resq_core.stream import StepResult


def step(
    macs: int,
    bits: float,
    bit_map: Tensor | None,
    reason: str | None,
    backend: str = "reference",
) -> StepResult:
    layers = tuple(
        LayerReport(name, macs, int(macs * 8 * bits), 3, bits, bits / 8, 0.5, 0.25)
        for name in ("a", "b")
    )
    bops = FrameBops.of(layers)
    anchor, output = reason is not None, torch.zeros(1)
    return StepResult(
        output, anchor, reason, 7, bops, bops, bits, 0.0, 0.0, bit_map, layers, backend
    )


def test_parts_are_weighted_by_what_they_compute() -> None:
    parts = {
        "big": step(30, 8, torch.full((2, 3), 8.0), "period"),
        "small": step(10, 4, torch.full((2, 3), 4.0), None, "native"),
        "elsewhere": step(60, 0, torch.zeros(1, 1), None),
    }
    result = merge(parts, "big", 5, "out", not_in_paper={"small.a"}, layers=True)
    assert (result.output, result.index, result.reason) == ("out", 5, "period")
    assert result.is_anchor
    assert result.backend == "reference and native"
    assert result.mean_bits == pytest.approx((60 * 8 + 20 * 4) / 200)
    assert result.active_fraction == pytest.approx((60 * 1 + 20 * 0.5) / 200)
    assert result.clipped_fraction == 0.5
    assert result.bops == FrameBops(60 * 64 + 20 * 32, 18, 200 * 64, 200 * 1024)
    assert result.bops_paper == FrameBops(60 * 64 + 10 * 32, 15, 190 * 64, 190 * 1024)
    assert result.bit_map is not None
    assert torch.equal(result.bit_map, torch.full((2, 3), 7.0))
    assert [r.name for r in result.layers or ()] == [
        f"{part}.{layer}" for part in parts for layer in ("a", "b")
    ]
    assert result.parts["small"].output is None
    assert result.parts["small"].layers == parts["small"].layers


def test_what_was_not_asked_for_is_not_there() -> None:
    result = merge({"only": step(1, 8, None, None)}, "only", 0, None)
    assert result.bit_map is None
    assert result.layers is None
    assert result.parts["only"].layers is None
    assert not result.is_anchor


def test_the_mean_over_no_layers() -> None:
    assert weighted_mean((), "mean_bits") == 0
