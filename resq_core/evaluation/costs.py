"""What frames cost, summed over any number of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["Costs"]


@dataclass
class Costs:
    """Running sums over frames.

    Attributes:
        frames, anchors: counts.
        bops, policy_bops: bit operations.
        bits, anchor_bits: mean bits of a frame, summed over all and over anchors.
    """

    frames: int = 0
    anchors: int = 0
    bops: float = 0.0
    policy_bops: float = 0.0
    bits: float = 0.0
    anchor_bits: float = 0.0

    def add(self, bops: float, policy_bops: float, mean_bits: float, is_anchor: bool) -> None:
        """Count a frame."""
        self.frames += 1
        self.anchors += is_anchor
        self.bops += bops
        self.policy_bops += policy_bops
        self.bits += mean_bits
        self.anchor_bits += mean_bits * is_anchor

    def record(self) -> dict[str, Any]:
        """The sums as plain values."""
        return asdict(self)

    def merge(self, record: dict[str, Any]) -> None:
        """Add what `record` gave. Raises KeyError or TypeError where it is none."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + record[field.name])

    def means(self) -> dict[str, Any]:
        """`bops`, `policy_bops` and `mean_bits` per frame; `residual_bits` per frame that is no
        anchor, None where all are; `frames` and `anchors` as counted."""
        frames, residuals = max(self.frames, 1), self.frames - self.anchors
        return {
            "bops": self.bops / frames,
            "policy_bops": self.policy_bops / frames,
            "mean_bits": self.bits / frames,
            "residual_bits": (self.bits - self.anchor_bits) / residuals if residuals else None,
            "frames": self.frames,
            "anchors": self.anchors,
        }
