"""The native extension: whether it can be used here, with which instructions, and if not, why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from resq_core.errors import BackendError, OptionError

__all__ = ["ISAS", "NativeStatus", "load_extension", "native_status"]

ISAS = ("amx", "avx512", "avx2", "portable")
"""Every variant of the kernels, best first; `RESQ_ISA` takes one of these names."""

_NOT_BUILT = (
    "it was not built when resq was installed: there was no C++20 compiler, or RESQ_NATIVE was "
    "OFF; `pip install -v` says which, and docs/backends.md what is needed"
)


@dataclass(frozen=True, slots=True)
class NativeStatus:
    """What the native extension can do in this process.

    Attributes:
        isa: the kernels that will run, one of `ISAS`; None where there is no usable extension.
        features: instruction-set extensions that processor and operating system support, by
            their lower-case names; empty off x86-64 and without an extension.
        reason: why the extension cannot be used; None where it can.
    """

    isa: str | None
    features: tuple[str, ...]
    reason: str | None


def native_status() -> NativeStatus:
    """Load the extension, once per process, and say what it can do.

    The environment variable `RESQ_ISA` picks other kernels than the best that this machine runs;
    it is read at every call.

    Raises:
        OptionError: `RESQ_ISA` names no instruction set, or one that cannot run here.
    """
    wanted = os.environ.get("RESQ_ISA") or None
    if wanted is not None and wanted not in ISAS:
        raise OptionError(f"RESQ_ISA is {wanted!r}; expected one of {list(ISAS)}")
    module, reason = _load()
    if module is None:
        return NativeStatus(None, (), reason)
    runnable: list[str] = module.isas()
    if wanted is not None and wanted not in runnable:
        raise OptionError(
            f"RESQ_ISA is {wanted!r}, which this build on this processor cannot run; "
            f"expected one of {runnable}"
        )
    return NativeStatus(wanted or runnable[0], tuple(module.cpu_features()), None)


def load_extension() -> ModuleType:
    """The extension, where `native_status` names an instruction set.

    Raises:
        BackendError: it cannot be used here.
    """
    module, reason = _load()
    if module is None:
        raise BackendError(f"the native backend cannot be used: {reason}")
    return module


@cache
def _load() -> tuple[ModuleType | None, str | None]:
    """The extension, or why there is none."""
    try:
        import resq_core.backends._native as native
    except ModuleNotFoundError:
        return None, _NOT_BUILT
    except ImportError as error:  # built for another system: a missing symbol or library
        return None, f"it cannot be loaded: {error}"
    return native, None
