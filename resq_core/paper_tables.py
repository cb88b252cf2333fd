"""The BOP figures that the paper prints, beside ours for the same rows.

Static precisions cost macs × [b_w·b_a + (T − 1)·β_w·β_a] / T per frame. Only networks that
`resq_core.models` can build are counted; the other rows say which network they wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from resq_core import models
from resq_core.bops import Counting, counted_macs, static_bops
from resq_core.capture import capture
from resq_core.precision import Precision

__all__ = ["PaperRow", "compare_with_paper"]

_CITYSCAPES = (1, 3, 1024, 2048)
_UNITS = {"GBOP": 1e9, "TBOP": 1e12}


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One printed figure.

    Attributes:
        table, row: where it stands.
        network: registry name.
        input_shape: of one frame.
        precision: static.
        period: T.
        printed: the paper's figure, in `unit`.
        unit: GBOP or TBOP per frame.
    """

    table: str
    row: str
    network: str
    input_shape: tuple[int, ...]
    precision: str
    period: int
    printed: float
    unit: str


def _segmentation(row: str, network: str, precision: str, printed: float) -> PaperRow:
    return PaperRow("2", f"{row} {precision}", network, _CITYSCAPES, precision, 3, printed, "TBOP")


def _pose(period: int) -> PaperRow:
    row = f"ResQ W8A8->W8A4 T={period}"
    shape = (1, 3, 256, 256)
    return PaperRow("1", row, "hrnet_w32_pose", shape, "W8A8->W8A4", period, 384, "GBOP")


def _objects(row: str, precision: str, period: int, printed: float) -> PaperRow:
    return PaperRow("3", row, "stm", (1, 3, 480, 864), precision, period, printed, "TBOP")


_ROWS: tuple[PaperRow, ...] = (
    *(_pose(period) for period in (2, 4, 6, 8)),
    _segmentation("HRNet-w18s(v2)", "hrnet_w18_small_v2", "W4A4->W3A3", 0.9),
    _segmentation("HRNet-w18s(v1)", "hrnet_w18_small_v1", "W4A4->W3A3", 0.9),
    _segmentation("DDRNet-39", "ddrnet39", "W8A8->W4A4", 9.0),
    _segmentation("DDRNet-39", "ddrnet39", "W4A4->W3A3", 3.2),
    _segmentation("DDRNet-23", "ddrnet23", "W8A8->W4A4", 4.6),
    _segmentation("DDRNet-23", "ddrnet23", "W4A4->W3A3", 1.6),
    _segmentation("DDRNet-23s", "ddrnet23_slim", "W8A8->W4A4", 1.1),
    _segmentation("DDRNet-23s", "ddrnet23_slim", "W4A4->W3A3", 0.4),
    _objects("DAVIS16 STM W8A8", "W8A8", 1, 10.07),
    _objects("DAVIS16 STM W4A8 and W8A4 (frame quantization)", "W8A4", 1, 5.04),
    _objects("DAVIS16 ResQ T=3 W8A8->W4A8 and W8A4", "W8A8->W8A4", 3, 6.74),
    _objects("DAVIS17 STM W8A8", "W8A8", 1, 19.09),
    _objects("DAVIS17 STM W4A8 and W8A4 (frame quantization)", "W8A4", 1, 9.54),
    _objects("DAVIS17 ResQ T=3 W8A8->W4A8 and W8A4", "W8A8->W8A4", 3, 12.78),
)


def compare_with_paper() -> Iterator[dict[str, Any]]:
    """Recompute every row under both countings, from the networks' own layers.

    Yields:
        {"table", "row", "counting", "unit", "paper", "ours", "relative"}, where relative is
        ours / paper − 1. For a network that is not built, `ours` and `relative` are None and
        "note" says so.
    """
    macs: dict[tuple[str, tuple[int, ...]], dict[str, int]] = {}
    for row in _ROWS:
        key = (row.network, row.input_shape)
        if row.network in models.names() and key not in macs:
            module = models.build(row.network).eval()
            macs[key] = capture(module, [torch.zeros(row.input_shape)]).macs
        for counting in Counting:
            yield _compare(row, counting, macs.get(key))


def _compare(row: PaperRow, counting: Counting, macs: dict[str, int] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "table": row.table,
        "row": row.row,
        "counting": str(counting),
        "unit": row.unit,
        "paper": row.printed,
        "ours": None,
        "relative": None,
    }
    if macs is None:
        return entry | {"note": f"the network {row.network} is not built yet"}
    precision = Precision.parse(row.precision)
    keyframe = (precision.weight_bits, precision.activation_bits)
    residual = keyframe
    if precision.residual_weight_bits is not None:
        residual = (precision.residual_weight_bits, precision.pool[0])
    spent = static_bops(counted_macs(macs, counting), keyframe, residual, row.period)
    ours = spent / _UNITS[row.unit]
    return entry | {"ours": round(ours, 4), "relative": round(ours / row.printed - 1, 4)}
