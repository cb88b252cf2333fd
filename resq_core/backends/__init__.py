"""Executors that run a calibrated network on this machine; see docs/backends.md.

Which one that is: `resq_core.backends.choice`. What is here imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Backend", "Serving"]


class Backend(StrEnum):
    """Which executor runs a network.

    AUTO: the native one where it can be used, else the reference, with a line in the log.
    NATIVE: the compiled one, or an error.
    REFERENCE: plain PyTorch, which defines what is right.
    """

    AUTO = "auto"
    NATIVE = "native"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Serving:
    """Which backend runs something.

    Attributes:
        backend: `native` and its instruction set, for example `native (avx512)`; or `reference`,
            and the device where that is not the CPU, `reference (cuda:0)`.
        reason: why it is not the native one; None where it is.
    """

    backend: str
    reason: str | None

    @property
    def isa(self) -> str | None:
        """The instruction set of the native backend; None of the reference."""
        return self._inside if self.backend.startswith(Backend.NATIVE) else None

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, or `cuda:0` and so on."""
        return "cpu" if self.backend.startswith(Backend.NATIVE) else self._inside or "cpu"

    @property
    def _inside(self) -> str | None:
        return self.backend.partition("(")[2].rstrip(")") or None
