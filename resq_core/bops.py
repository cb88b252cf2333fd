"""Bit operations: MACs × weight bits × activation bits, counted per layer and per frame.

The policy's own arithmetic is a separate term: every quantizer of a dynamic pool forms δ − q(δ)
and its norm, C multiply-adds per pixel at 8×8 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Counting",
    "FrameBops",
    "LayerReport",
    "LayerReports",
    "Totals",
    "counted_macs",
    "policy_cost",
    "static_bops",
    "weighted_mean",
]

Layers = TypeVar("Layers", list[int], NDArray[Any])

_INT8 = 8 * 8
_FLOAT32 = 32 * 32


class Counting(StrEnum):
    """Which layers count: `all`, or as the paper's tables do: without the first and the last."""

    ALL = "all"
    PAPER = "paper"


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer on one frame.

    Attributes:
        name: the layer's name in the network.
        macs: multiply-accumulates of a dense pass.
        bops: macs × weight bits × mean activation bits over input pixels.
        policy_bops: cost of choosing the bits.
        mean_bits: mean activation bits over input pixels, 0 to 8.
        active_fraction: share of output pixels that must be computed, halo included.
        clipped_fraction: share of residual elements that the top quantizer clamped.
        input_active_fraction: share of input pixels whose codes changed; 1 at a keyframe.
    """

    name: str
    macs: int
    bops: int
    policy_bops: int
    mean_bits: float
    active_fraction: float
    clipped_fraction: float
    input_active_fraction: float


class LayerReports(Sequence[LayerReport]):
    """Reports of a frame's layers, held by columns: sums over them are made for every frame, and
    the reports themselves only where somebody asks for them.

    Args:
        columns: of every attribute of `LayerReport`, in its order; one value a layer.
    """

    __slots__ = ("_columns",)

    def __init__(self, *columns: Sequence[Any] | NDArray[Any]) -> None:
        self._columns = columns

    @classmethod
    def of(cls, reports: Iterable[LayerReport]) -> LayerReports:
        """Those of reports in execution order."""
        rows = list(reports)
        return cls(*(np.array(list(map(attrgetter(f.name), rows))) for f in fields(LayerReport)))

    def column(self, attribute: str) -> NDArray[Any]:
        """One attribute of all layers."""
        return np.asarray(self._columns[_PLACES[attribute]])

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[LayerReport]:
        return map(LayerReport, *(np.asarray(column).tolist() for column in self._columns))

    @overload
    def __getitem__(self, place: int) -> LayerReport: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[LayerReport, ...]: ...
    def __getitem__(self, place: int | slice) -> LayerReport | tuple[LayerReport, ...]:
        return tuple(self)[place]


_PLACES = {f.name: i for i, f in enumerate(fields(LayerReport))}


@dataclass(frozen=True, slots=True)
class FrameBops:
    """Bit operations of one frame beside its baselines.

    Attributes:
        frame: the network's.
        policy: the policy's own.
        w8a8: a dense pass at 8-bit weights and activations.
        fp32: a dense pass in float32, 32×32 bits.
    """

    frame: int
    policy: int
    w8a8: int
    fp32: int

    @property
    def saving(self) -> float:
        """1 − (frame + policy) / w8a8: 0 for no saving, 1 for free, negative for a loss."""
        return 1.0 - (self.frame + self.policy) / self.w8a8 if self.w8a8 else 0.0

    @classmethod
    def of(cls, layers: Sequence[LayerReport], counting: Counting = Counting.ALL) -> FrameBops:
        """Sum over the layers that count, given in execution order."""
        macs, bops, policy = (
            int(_counted(_column(layers, name), counting).sum())
            for name in ("macs", "bops", "policy_bops")
        )
        return cls(bops, policy, macs * _INT8, macs * _FLOAT32)


@dataclass(slots=True)
class Totals:
    """Running sums of a stream.

    Attributes:
        frames, anchors: counts.
        bops, policy_bops: bit operations spent.
        baseline_w8a8, baseline_fp32: what dense passes would have spent.
    """

    frames: int = 0
    anchors: int = 0
    bops: int = 0
    policy_bops: int = 0
    baseline_w8a8: int = 0
    baseline_fp32: int = 0
    _bits: float = field(default=0.0, repr=False)

    def add(self, bops: FrameBops, mean_bits: float, is_anchor: bool) -> None:
        """Count one more frame."""
        self.frames += 1
        self.anchors += is_anchor
        self.bops += bops.frame
        self.policy_bops += bops.policy
        self.baseline_w8a8 += bops.w8a8
        self.baseline_fp32 += bops.fp32
        self._bits += mean_bits

    @property
    def saving(self) -> float:
        """1 − (bops + policy_bops) / baseline_w8a8; 0 before the first frame."""
        if not self.baseline_w8a8:
            return 0.0
        return 1.0 - (self.bops + self.policy_bops) / self.baseline_w8a8

    @property
    def mean_bits(self) -> float:
        """Mean over frames of the frames' mean activation bits."""
        return self._bits / self.frames if self.frames else 0.0


def policy_cost(elements: int, n_quantizers: int) -> int:
    """Bit operations to choose among `n_quantizers` for an input of `elements` values."""
    return elements * n_quantizers * _INT8 if n_quantizers > 1 else 0


def counted_macs(macs: Mapping[str, int], counting: Counting) -> int:
    """Total multiply-accumulates of layers in execution order under a counting."""
    return sum(_counted(list(macs.values()), counting))


def _counted(layers: Layers, counting: Counting) -> Layers:
    return layers if counting is Counting.ALL else layers[1:-1]


def _column(layers: Sequence[LayerReport], attribute: str) -> NDArray[Any]:
    if isinstance(layers, LayerReports):
        return layers.column(attribute)
    return np.array(list(map(attrgetter(attribute), layers)))


def weighted_mean(layers: Sequence[LayerReport], attribute: str) -> float:
    """The mean of one of the layers' attributes, weighted by their MACs; 0 without layers."""
    macs = _column(layers, "macs")
    return float(np.dot(macs, _column(layers, attribute)) / (macs.sum() or 1))


def static_bops(
    macs: float,
    keyframe: tuple[int, int],
    residual: tuple[int, int],
    period: int,
    frames: int | None = None,
) -> float:
    """Mean bit operations per frame, with fixed bits.

    Args:
        macs: of one dense pass.
        keyframe, residual: (weight bits, activation bits).
        period: T ≥ 1.
        frames: length N of a clip, whose last window may be partial: ceil(N / T) keyframes.
            Without it windows are whole.
    """
    frames = period if frames is None else frames
    keyframes = -(-frames // period)
    spent = keyframes * keyframe[0] * keyframe[1]
    spent += (frames - keyframes) * residual[0] * residual[1]
    return macs * spent / frames
