"""The BOP figures that the paper prints, beside ours for the same rows.

Static precisions cost macs × [b_w·b_a + (T − 1)·β_w·β_a] / T per frame. The paper's own counting
also takes the last, partial window of every clip into account, and averages over clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from resq_core import models
from resq_core.bops import Counting, counted_macs, static_bops
from resq_core.capture import capture
from resq_core.paper_clips import DAVIS16, DAVIS17, JHMDB, Clip
from resq_core.precision import Precision

__all__ = ["PaperRow", "compare_with_paper"]

_INPUTS = {"hrnet_w32_pose": (1, 3, 256, 256), "stm": (1, 3, 480, 864)}
_CITYSCAPES = (1, 3, 1024, 2048)
_OPTIONS = {"hrnet_w32_pose": {"num_joints": 15}}
_UNITS = {"GBOP": 1e9, "TBOP": 1e12}
_STM_PER_OBJECT = ("Encoder_M.", "KV_M_r4.", "Decoder.")
_STM_NOT_IN_PAPER = ("KV_M_r4.", "KV_Q_r4.", "Decoder.pred2")
_STM_STEMS = ("Encoder_M.conv1", "Encoder_M.conv1_m", "Encoder_M.conv1_o", "Encoder_Q.conv1")


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One printed figure.

    Attributes:
        table, row: where it stands.
        network: registry name.
        precision: static.
        period: T.
        printed: the paper's figure, in `unit`.
        unit: GBOP or TBOP per frame.
        clips: what the paper averages over; nothing where its windows are whole.
    """

    table: str
    row: str
    network: str
    precision: str
    period: int
    printed: float
    unit: str
    clips: tuple[Clip, ...] = ()


@dataclass(frozen=True, slots=True)
class _FrameMacs:
    """Multiply-accumulates of a frame at the usual input size: once, and for every object."""

    once: int
    per_object: int = 0

    def of(self, objects: float) -> float:
        return self.once + objects * self.per_object


def _segmentation(row: str, network: str, precision: str, printed: float) -> PaperRow:
    return PaperRow("2", f"{row} {precision}", network, precision, 3, printed, "TBOP")


def _pose(period: int) -> PaperRow:
    row = f"ResQ W8A8->W8A4 T={period}"
    return PaperRow("1", row, "hrnet_w32_pose", "W8A8->W8A4", period, 384, "GBOP", JHMDB)


def _objects(
    clips: tuple[Clip, ...], row: str, precision: str, period: int, printed: float
) -> PaperRow:
    label = f"{'DAVIS16' if clips is DAVIS16 else 'DAVIS17'} {row}"
    return PaperRow("3", label, "stm", precision, period, printed, "TBOP", clips)


_FRAME_4 = "STM W4A8 and W8A4 (frame quantization)"
_RESQ_3 = "ResQ T=3 W8A8->W4A8 and W8A4"
_ROWS: tuple[PaperRow, ...] = (
    *(_pose(period) for period in (2, 4, 6, 8)),
    _segmentation("HRNet-w18s(v2)", "hrnet_w18_small", "W4A4->W3A3", 0.9),
    _segmentation("HRNet-w18s(v1)", "hrnet_w18_small_v1", "W4A4->W3A3", 0.9),
    _segmentation("DDRNet-39", "ddrnet39", "W8A8->W4A4", 9.0),
    _segmentation("DDRNet-39", "ddrnet39", "W4A4->W3A3", 3.2),
    _segmentation("DDRNet-23", "ddrnet23", "W8A8->W4A4", 4.6),
    _segmentation("DDRNet-23", "ddrnet23", "W4A4->W3A3", 1.6),
    _segmentation("DDRNet-23s", "ddrnet23_slim", "W8A8->W4A4", 1.1),
    _segmentation("DDRNet-23s", "ddrnet23_slim", "W4A4->W3A3", 0.4),
    _objects(DAVIS16, "STM W8A8", "W8A8", 1, 10.07),
    _objects(DAVIS16, _FRAME_4, "W8A4", 1, 5.04),
    _objects(DAVIS16, _RESQ_3, "W8A8->W8A4", 3, 6.74),
    _objects(DAVIS17, "STM W8A8", "W8A8", 1, 19.09),
    _objects(DAVIS17, _FRAME_4, "W8A4", 1, 9.54),
    _objects(DAVIS17, _RESQ_3, "W8A8->W8A4", 3, 12.78),
)


def compare_with_paper() -> Iterator[dict[str, Any]]:
    """Recompute every row under both countings, from the networks' own layers.

    Yields:
        {"table", "row", "counting", "unit", "paper", "ours", "relative"}, where relative is
        ours / paper − 1.
    """
    macs: dict[str, dict[Counting, _FrameMacs]] = {}
    for row in _ROWS:
        if row.network not in macs:
            macs[row.network] = _frame_macs(row.network)
        for counting in Counting:
            ours = _bops(row, counting, macs[row.network][counting]) / _UNITS[row.unit]
            yield {
                "table": row.table,
                "row": row.row,
                "counting": str(counting),
                "unit": row.unit,
                "paper": row.printed,
                "ours": round(ours, 4),
                "relative": round(ours / row.printed - 1, 4),
            }


def _bops(row: PaperRow, counting: Counting, macs: _FrameMacs) -> float:
    """Mean bit operations per frame."""
    precision = Precision.parse(row.precision)
    keyframe = (precision.weight_bits, precision.activation_bits)
    residual = keyframe
    if precision.residual_weight_bits is not None:
        residual = (precision.residual_weight_bits, precision.pool[0])
    if counting is Counting.PAPER and row.clips:
        return fmean(
            static_bops(
                macs.of(clip.objects) * clip.scale, keyframe, residual, row.period, clip.frames
            )
            for clip in row.clips
        )
    objects = fmean(clip.objects for clip in row.clips) if row.clips else 1
    return static_bops(macs.of(objects), keyframe, residual, row.period)


def _frame_macs(network: str) -> dict[Counting, _FrameMacs]:
    shape = _INPUTS.get(network, _CITYSCAPES)
    module = models.build(network, **_OPTIONS.get(network, {})).eval()
    if isinstance(module, models.STM):
        layers = _stm_layers(module, torch.zeros(shape))
        return {counting: _stm_macs(layers, counting) for counting in Counting}
    layers = capture(module, [torch.zeros(shape)]).macs
    return {counting: _FrameMacs(counted_macs(layers, counting)) for counting in Counting}


def _stm_layers(net: models.STM, frame: Tensor) -> dict[str, int]:
    """Multiply-accumulates of every layer for one object, by its name in the whole network."""
    mask = frame[:, 0]
    r4, r3, r2 = net.features(1, *frame.shape[2:])
    parts = {
        "Encoder_M": [frame, mask, mask],
        "KV_M_r4": [r4],
        "Encoder_Q": [frame],
        "KV_Q_r4": [r4],
        "Decoder": [r4, r3, r2],
    }
    return {
        f"{part}.{name}": macs
        for part, inputs in parts.items()
        for name, macs in capture(net.get_submodule(part), inputs).macs.items()
    }


def _stm_macs(layers: Mapping[str, int], counting: Counting) -> _FrameMacs:
    """The mask encoder and the whole decoder repeat for every object; reading is not counted.

    The paper's counting leaves out the first convolutions, the last and the Key and Value ones.
    """
    counted = {
        name: macs
        for name, macs in layers.items()
        if counting is Counting.ALL
        or not (name in _STM_STEMS or name.startswith(_STM_NOT_IN_PAPER))
    }
    repeated = sum(m for name, m in counted.items() if name.startswith(_STM_PER_OBJECT))
    return _FrameMacs(sum(counted.values()) - repeated, repeated)
