"""Calibrated activation scales: which layer, which role, which bits → s.

Weight scales are not stored: Eq. 7 gives them from the weights. A network calibrated for several
precisions holds the scales of all of them, so that one file serves every precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from resq_core.errors import CalibrationError, SavedModelError
from resq_core.precision import MAX_BITS, Precision

__all__ = ["Encodings", "Granularity", "Role", "Slot", "frame_slot", "slots_of"]


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

    @property
    def may_be_unsigned(self) -> bool:
        """Residuals have either sign, and codes are kept as int8."""
        return self.role is Role.FRAME and self.activation_bits < MAX_BITS

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


def frame_slot(precision: Precision) -> Slot:
    """Φ_a, of keyframes."""
    return Slot(Role.FRAME, precision.weight_bits, precision.activation_bits)


def slots_of(precision: Precision) -> list[Slot]:
    """The quantizers that a precision needs; 0-bit ones need no scale."""
    slots = [frame_slot(precision)]
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
        unsigned: slot → layers whose codes run from 0 to 2^b − 1.
    """

    granularity: Granularity
    scales: Mapping[Slot, Mapping[str, float]]
    about: Mapping[str, int]
    unsigned: Mapping[Slot, frozenset[str]] = field(default_factory=dict)

    def signed(self, slot: Slot, layer: str) -> bool:
        """Whether a quantizer's codes reach to either side of 0, as the paper's do."""
        return layer not in self.unsigned.get(slot, ())

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
        older = {slot: names for slot, names in self.unsigned.items() if slot not in newer.scales}
        return Encodings(
            newer.granularity,
            {**self.scales, **newer.scales},
            newer.about,
            {**older, **newer.unsigned},
        )

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
        unsigned = {
            slot: frozenset(
                f"{part}.{layer}"
                for part, encodings in parts.items()
                for layer in encodings.unsigned.get(slot, ())
            )
            for slot in slots
        }
        return cls(first.granularity, scales, first.about, _some(unsigned))

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
        unsigned = {
            slot: frozenset(n.removeprefix(start) for n in names if n.startswith(start))
            for slot, names in self.unsigned.items()
        }
        return Encodings(self.granularity, scales, self.about, _some(unsigned))

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `from_json` reads back exactly."""
        unsigned = {str(slot): sorted(names) for slot, names in sorted(self.unsigned.items())}
        return {
            "granularity": str(self.granularity),
            "about": dict(self.about),
            "scales": {str(slot): dict(layers) for slot, layers in sorted(self.scales.items())},
            **({"unsigned": unsigned} if unsigned else {}),
        }

    @classmethod
    def from_json(cls, data: Any) -> Encodings:
        """Read and check what `to_json` wrote.

        Raises:
            SavedModelError: fields are missing, a scale is not a finite number above 0, or codes
                without a sign are of a layer or quantizer that there is not, or of 8 bits.
        """
        try:
            scales = {
                Slot.parse(slot): {str(name): _checked(s) for name, s in layers.items()}
                for slot, layers in data["scales"].items()
            }
            about = {str(k): int(v) for k, v in data["about"].items()}
            unsigned = {
                Slot.parse(slot): frozenset(map(str, names))
                for slot, names in data.get("unsigned", {}).items()
            }
            for slot, names in unsigned.items():
                if not slot.may_be_unsigned or not names <= scales[slot].keys():
                    raise ValueError(f"{slot} cannot be unsigned in all of {sorted(names)[:5]}")
            return cls(Granularity(data["granularity"]), scales, about, unsigned)
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


def _some(unsigned: Mapping[Slot, frozenset[str]]) -> dict[Slot, frozenset[str]]:
    return {slot: names for slot, names in unsigned.items() if names}


def _checked(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"scale {value!r} is not a number")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"scale {value!r} is not a finite number above 0")
    return float(value)
