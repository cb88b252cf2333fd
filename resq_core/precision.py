"""Precision in the paper's notation, as a frozen value.

`W8A8` is frame quantization: every frame at 8-bit weights and 8-bit activations.
`W8A8->W8A4` is static ResQ: keyframes at W8A8, residual frames at W8A4.
`W8A8->W8A{0,4,8}` is dynamic ResQ: a policy gives each residual pixel 0, 4 or 8 bits.
`W8A8->W8A0` transmits nothing between keyframes, which is `hold`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from resq_core.errors import PrecisionError

__all__ = ["MAX_BITS", "Precision"]

MAX_BITS = 8

_PART = re.compile(r"W(\d+)A(?:(\d+)|[{\[](\d+(?:,\d+)*)[}\]])")
_EXPECTED = "expected for example W8A8, W8A8->W8A4 or W8A8->W8A{0,4,8}, with bits from 0 to 8"


def _check_bits(bits: int, what: str) -> None:
    if not isinstance(bits, int) or isinstance(bits, bool) or not 0 <= bits <= MAX_BITS:
        raise PrecisionError(f"{what} is {bits!r}; expected a whole number from 0 to {MAX_BITS}")


@dataclass(frozen=True, slots=True)
class Precision:
    """Bits of weights and activations, for keyframes and for residual frames.

    Attributes:
        weight_bits: keyframe weight bits, 0 to 8 (Φ_w).
        activation_bits: keyframe activation bits, 0 to 8 (Φ_a).
        residual_weight_bits: residual weight bits, 0 to 8 (Θ_w); None for frame quantization.
        pool: activation bits that residual pixels may get, strictly ascending (Θ_a^1…Θ_a^n);
            empty for frame quantization, one entry for static ResQ.

    Raises:
        PrecisionError: bits outside 0 to 8, or a pool that does not ascend.
    """

    weight_bits: int
    activation_bits: int
    residual_weight_bits: int | None = None
    pool: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_bits(self.weight_bits, "weight bits")
        _check_bits(self.activation_bits, "activation bits")
        if (self.residual_weight_bits is None) != (not self.pool):
            raise PrecisionError("residual weight bits and residual activation bits go together")
        if self.residual_weight_bits is not None:
            _check_bits(self.residual_weight_bits, "residual weight bits")
        for bits in self.pool:
            _check_bits(bits, "residual activation bits")
        if any(low >= high for low, high in zip(self.pool, self.pool[1:], strict=False)):
            raise PrecisionError(
                f"residual activation bits are {list(self.pool)}; "
                "expected them in ascending order, each once"
            )

    @classmethod
    def parse(cls, text: str | Precision) -> Precision:
        """Read the paper's notation; `→` and `->` are the same, spaces do not matter.

        Raises:
            PrecisionError: the text does not parse; the message shows what was expected.
        """
        if isinstance(text, Precision):
            return text
        if not isinstance(text, str) or len(text) > 100:
            raise PrecisionError(f"precision is {str(text)[:40]!r}; {_EXPECTED}")
        parts = re.sub(r"\s", "", text).replace("→", "->").split("->")
        matches = [_PART.fullmatch(part) for part in parts]
        if len(parts) > 2 or any(match is None for match in matches):
            quote = "; quote it, or the shell takes > for a file" if text.endswith("-") else ""
            raise PrecisionError(f"precision {text!r} does not parse; {_EXPECTED}{quote}")
        numbers = [
            (int(m[1]), tuple(int(b) for b in (m[2] or m[3]).split(",")))
            for m in matches
            if m is not None
        ]
        weight_bits, activations = numbers[0]
        if len(activations) != 1:
            raise PrecisionError(
                f"precision {text!r} gives a keyframe several activation bits; {_EXPECTED}"
            )
        if len(numbers) == 1:
            return cls(weight_bits, activations[0])
        return cls(weight_bits, activations[0], numbers[1][0], numbers[1][1])

    def __str__(self) -> str:
        text = f"W{self.weight_bits}A{self.activation_bits}"
        if self.residual_weight_bits is None:
            return text
        pool = ",".join(str(bits) for bits in self.pool)
        pool = f"{{{pool}}}" if self.is_dynamic else pool
        return f"{text}->W{self.residual_weight_bits}A{pool}"

    @property
    def is_frame(self) -> bool:
        """True if every frame is a keyframe: plain frame quantization."""
        return not self.pool

    @property
    def is_dynamic(self) -> bool:
        """True if a policy chooses among several quantizers per pixel."""
        return len(self.pool) > 1

    @property
    def is_hold(self) -> bool:
        """True if residual frames transmit nothing, so that the keyframe's output repeats."""
        return self.pool == (0,)
