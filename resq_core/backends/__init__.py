"""Executors that run a calibrated network on this machine; see docs/backends.md."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from enum import StrEnum

from torch import Tensor

from resq_core.backends.extension import load_extension, native_status
from resq_core.backends.native_executor import NativeExecutor
from resq_core.backends.planning import UnplannableError
from resq_core.backends.reference import ReferenceExecutor
from resq_core.errors import BackendError, OptionError
from resq_core.executor import Executor
from resq_core.graph import Graph
from resq_core.residual import LayerQuantizers

__all__ = ["Backend", "checked_backend", "executor_for"]

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
) -> Executor:
    """The executor for a graph.

    Args:
        backend: what was asked for.
        graph: the network, captured for the shapes of `inputs`.
        layers: quantizers by layer name.
        inputs: example inputs; only shapes matter.

    Raises:
        BackendError: the native backend was asked for by name and cannot be used.
    """
    if backend is Backend.REFERENCE:
        return ReferenceExecutor(graph, layers)
    status = native_status()
    try:
        if status.isa is None:
            raise UnplannableError(status.reason or "the extension cannot be loaded")
        return NativeExecutor(graph, layers, inputs, status.isa)
    except UnplannableError as error:
        if backend is Backend.NATIVE:
            raise BackendError(f"the native backend cannot be used: {error}") from error
        _log.warning("the reference backend serves, native cannot: %s", error)
        return ReferenceExecutor(graph, layers)
