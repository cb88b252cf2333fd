"""Executors that run a calibrated network on this machine; see docs/backends.md."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from torch import Tensor

from resq_core.backends.extension import load_extension, native_status
from resq_core.backends.native_executor import NativeExecutor
from resq_core.backends.planning import UnplannableError
from resq_core.backends.reference import ReferenceExecutor
from resq_core.errors import BackendError, OptionError
from resq_core.executor import Executor
from resq_core.graph import Graph
from resq_core.residual import LayerQuantizers

__all__ = ["Backend", "Serving", "checked_backend", "executor_for", "serving_here"]

_log = logging.getLogger(__name__)


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
        backend: `reference`, or `native` and its instruction set, for example `native (avx512)`.
        reason: why it is not the native one; None where it is.
    """

    backend: str
    reason: str | None

    @property
    def isa(self) -> str | None:
        """The instruction set of the native backend; None of the reference."""
        return self.backend.partition("(")[2].rstrip(")") or None


_ASKED_FOR = "it was asked for"


def serving_here(backend: Backend) -> Serving:
    """What this process offers; a network that native cannot plan runs on the reference still.

    Raises:
        OptionError: `RESQ_ISA` names no instruction set, or one that cannot run here.
        BackendError: `native` was asked for, and cannot be used here.
    """
    checked_backend(backend)
    if backend is Backend.REFERENCE:
        return Serving(ReferenceExecutor.backend, _ASKED_FOR)
    status = native_status()
    if status.isa is None:
        return Serving(ReferenceExecutor.backend, status.reason)
    return Serving(f"native ({status.isa})", None)


def checked_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        OptionError: there is none.
        BackendError: it is `native`, and the extension cannot be used here.
    """
    if name not in list(Backend):
        raise OptionError(f"backend is {name!r}; expected one of {[str(b) for b in Backend]}")
    if name == Backend.NATIVE:
        load_extension()
    return Backend(name)


def executor_for(
    backend: Backend,
    graph: Graph,
    layers: Mapping[str, LayerQuantizers],
    inputs: Sequence[Tensor],
) -> tuple[Executor, Serving]:
    """The executor for a graph, and what it is.

    Args:
        backend: what was asked for.
        graph: the network, captured for the shapes of `inputs`.
        layers: quantizers by layer name.
        inputs: example inputs; only shapes matter.

    Raises:
        BackendError: the native backend was asked for by name and cannot be used.
    """
    if backend is Backend.REFERENCE:
        executor = ReferenceExecutor(graph, layers)
        return executor, Serving(executor.backend, _ASKED_FOR)
    status = native_status()
    try:
        if status.isa is None:
            raise UnplannableError(status.reason or "the extension cannot be loaded")
        native = NativeExecutor(graph, layers, inputs, status.isa)
        return native, Serving(native.backend, None)
    except UnplannableError as error:
        if backend is Backend.NATIVE:
            raise BackendError(f"the native backend cannot be used: {error}") from error
        _tell(str(error))
        executor = ReferenceExecutor(graph, layers)
        return executor, Serving(executor.backend, str(error))


@cache
def _tell(reason: str) -> None:
    """Log a reason for the reference backend, once per process: streams share it."""
    _log.warning("the reference backend serves, native cannot: %s", reason)
