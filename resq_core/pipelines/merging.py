"""One result from the parts of a network that ran on one frame."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from resq_core.bops import FrameBops, LayerReport, weighted_mean
from resq_core.stream import StepResult

__all__ = ["MergedResult", "merge"]


@dataclass(frozen=True, slots=True)
class MergedResult(StepResult):
    """A frame that several parts worked on; sums and means are over all layers that ran.

    Attributes:
        parts: each part's own result by its name, without output, in the order in which they ran.
    """

    parts: Mapping[str, StepResult]


def merge(
    parts: Mapping[str, StepResult],
    lead: str,
    index: int,
    output: Any,
    not_in_paper: Collection[str] = (),
    layers: bool = False,
) -> MergedResult:
    """Put the parts' results together.

    Args:
        parts: by name, in the order in which they ran; each with its layers.
        lead: the part whose clock says whether the frame is an anchor, and why.
        index: frames before this one.
        output: of the whole.
        not_in_paper: layers, as `part.layer`, that the paper's tables do not count.
        layers: also return all reports, under `part.layer`.

    Returns:
        BOPs summed, bits and fractions weighted by MACs. The bit map is the mean of the maps on
        the lead's grid, weighted by their parts' MACs. Different backends are all named.
    """
    reports = [
        replace(report, name=f"{part}.{report.name}")
        for part, result in parts.items()
        for report in result.layers or ()
    ]
    first = parts[lead]
    return MergedResult(
        output=output,
        is_anchor=first.is_anchor,
        reason=first.reason,
        index=index,
        bops=FrameBops.of(reports),
        bops_paper=FrameBops.of([r for r in reports if r.name not in not_in_paper]),
        mean_bits=weighted_mean(reports, "mean_bits"),
        active_fraction=weighted_mean(reports, "active_fraction"),
        clipped_fraction=weighted_mean(reports, "clipped_fraction"),
        bit_map=_bit_map(parts, first),
        backend=" and ".join(dict.fromkeys(result.backend for result in parts.values())),
        layers=tuple(reports) if layers else None,
        parts={
            part: replace(r, output=None, layers=r.layers if layers else None)
            for part, r in parts.items()
        },
    )


def _bit_map(parts: Mapping[str, StepResult], lead: StepResult) -> Tensor | None:
    if lead.bit_map is None:
        return None
    total, macs = lead.bit_map.new_zeros(lead.bit_map.shape), 0
    for result in parts.values():
        if result.bit_map is not None and result.bit_map.shape == total.shape:
            weight = _macs(result.layers or ())
            total, macs = total + weight * result.bit_map, macs + weight
    return total / max(macs, 1)


def _macs(layers: tuple[LayerReport, ...]) -> int:
    return sum(r.macs for r in layers)
