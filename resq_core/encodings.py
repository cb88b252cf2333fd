"""Calibrated activation scales: which layer, which role, which bits → s.

Weight scales are not stored: Eq. 7 gives them from the weights. A network calibrated for several
precisions holds the scales of all of them, so that one file serves every precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from resq_core.errors import CalibrationError, SavedModelError
from resq_core.precision import MAX_BITS, Precision

__all__ = ["Encodings", "Granularity", "Role", "Slot", "slots_of"]


class Role(StrEnum):
    """What a quantizer was fitted on."""

    FRAME = "frame"
    RESIDUAL = "residual"


class Granularity(StrEnum):
    """How many scales a weight has."""

    TENSOR = "tensor"
    CHANNEL = "channel"


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One activation quantizer of a layer, fitted beside weights of `weight_bits` (Eq. 8).

    Printed and parsed as for example `frame W8A8` or `residual W8A4`.
    """

    role: Role
    weight_bits: int
    activation_bits: int

    def __str__(self) -> str:
        return f"{self.role} W{self.weight_bits}A{self.activation_bits}"

    @classmethod
    def parse(cls, text: str) -> Slot:
        """Read what `str` wrote.

        Raises:
            ValueError: the text is something else.
        """
        role, _, bits = text.partition(" ")
        weight, _, activation = bits.removeprefix("W").partition("A")
        slot = cls(Role(role), int(weight), int(activation))
        if str(slot) != text or not (
            0 <= slot.weight_bits <= MAX_BITS and 1 <= slot.activation_bits <= MAX_BITS
        ):
            raise ValueError(f"{text!r} is not a quantizer")
        return slot


def slots_of(precision: Precision) -> list[Slot]:
    """The quantizers that a precision needs; 0-bit ones need no scale."""
    slots = [Slot(Role.FRAME, precision.weight_bits, precision.activation_bits)]
    if precision.residual_weight_bits is not None:
        slots += [
            Slot(Role.RESIDUAL, precision.residual_weight_bits, bits) for bits in precision.pool
        ]
    return [slot for slot in slots if slot.activation_bits > 0]


@dataclass(frozen=True, slots=True)
class Encodings:
    """The scales of every layer, and how they came about.

    Attributes:
        granularity: of the weights that the scales were fitted beside.
        scales: slot → layer name → s > 0.
        about: what the calibration was run on: clips, frames, samples, points, period.
    """

    granularity: Granularity
    scales: Mapping[Slot, Mapping[str, float]]
    about: Mapping[str, int]

    def scale(self, slot: Slot, layer: str) -> float:
        """The scale of one quantizer; 1.0 for zero bits.

        Raises:
            CalibrationError: it was never fitted.
        """
        if slot.activation_bits == 0:
            return 1.0
        try:
            return self.scales[slot][layer]
        except KeyError:
            raise CalibrationError(
                f"layer {layer!r} has no scale for {slot}; "
                f"calibrated are {[str(s) for s in sorted(self.scales)]}"
            ) from None

    def require(self, precision: Precision) -> None:
        """Check that a precision can run.

        Raises:
            CalibrationError: naming the quantizers that are missing and how to get them.
        """
        missing = [str(slot) for slot in slots_of(precision) if slot not in self.scales]
        if missing:
            raise CalibrationError(
                f"precision {precision} needs {missing}, calibrated are "
                f"{[str(s) for s in sorted(self.scales)]}; call calibrate(clips) with this "
                "precision, or pass it in calibrate(..., also=[...])"
            )

    def merged(self, newer: Encodings) -> Encodings:
        """These scales with `newer` ones added, replacing where both have a slot."""
        return Encodings(newer.granularity, {**self.scales, **newer.scales}, newer.about)

    @classmethod
    def joined(cls, parts: Mapping[str, Encodings]) -> Encodings:
        """The encodings of a network that is run in parts: layers become `part.layer`.

        Slots that one part lacks are left out, and `about` is that of the first part.
        """
        first = next(iter(parts.values()))
        slots = [slot for slot in first.scales if all(slot in e.scales for e in parts.values())]
        scales = {
            slot: {
                f"{part}.{layer}": scale
                for part, encodings in parts.items()
                for layer, scale in encodings.scales[slot].items()
            }
            for slot in slots
        }
        return cls(first.granularity, scales, first.about)

    def part(self, name: str) -> Encodings:
        """One part's share of what `joined` put together."""
        start = f"{name}."
        scales = {
            slot: {
                layer.removeprefix(start): scale
                for layer, scale in layers.items()
                if layer.startswith(start)
            }
            for slot, layers in self.scales.items()
        }
        return Encodings(self.granularity, scales, self.about)

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `from_json` reads back exactly."""
        return {
            "granularity": str(self.granularity),
            "about": dict(self.about),
            "scales": {str(slot): dict(layers) for slot, layers in sorted(self.scales.items())},
        }

    @classmethod
    def from_json(cls, data: Any) -> Encodings:
        """Read and check what `to_json` wrote.

        Raises:
            SavedModelError: fields are missing, or a scale is not a finite number above 0.
        """
        try:
            scales = {
                Slot.parse(slot): {str(name): _checked(s) for name, s in layers.items()}
                for slot, layers in data["scales"].items()
            }
            about = {str(k): int(v) for k, v in data["about"].items()}
            return cls(Granularity(data["granularity"]), scales, about)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SavedModelError(f"the encodings are damaged: {error}") from error

    def require_layers(self, names: Iterable[str]) -> None:
        """Check that every slot has a scale for exactly these layers.

        Raises:
            SavedModelError: naming up to five layers on either side.
        """
        expected = set(names)
        for slot, layers in self.scales.items():
            missing, extra = sorted(expected - set(layers)), sorted(set(layers) - expected)
            if missing or extra:
                raise SavedModelError(
                    f"the encodings of {slot} do not fit the network: "
                    f"missing layers {missing[:5]}, unknown layers {extra[:5]}"
                )


def _checked(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"scale {value!r} is not a number")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"scale {value!r} is not a finite number above 0")
    return float(value)
