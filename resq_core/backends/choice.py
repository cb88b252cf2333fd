"""Which executor runs a network on a device of this machine, and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from resq_core.backends import Backend, Serving
from resq_core.backends.extension import load_extension, native_status
from resq_core.backends.native_executor import NativeExecutor
from resq_core.backends.planning import UnplannableError
from resq_core.backends.reference import ReferenceExecutor, reference_name
from resq_core.errors import BackendError, OptionError
from resq_core.executor import Executor
from resq_core.graph import Graph
from resq_core.residual import LayerQuantizers

__all__ = ["checked_backend", "executor_for", "serving_here"]

_log = logging.getLogger(__name__)
_ASKED_FOR = "it was asked for"
_CPU = torch.device("cpu")


def serving_here(backend: Backend, device: torch.device = _CPU) -> Serving:
    """What this process offers; a network that native cannot plan runs on the reference still.

    Raises:
        OptionError: `RESQ_ISA` names no instruction set, or one that cannot run here.
        BackendError: `native` was asked for, and cannot be used here, or not on the device.
    """
    checked_backend(backend, device)
    reason = _only_reference(backend, device)
    if reason is not None:
        return Serving(reference_name(device), reason)
    status = native_status()
    if status.isa is None:
        return Serving(reference_name(device), status.reason)
    return Serving(f"native ({status.isa})", None)


def _only_reference(backend: Backend, device: torch.device) -> str | None:
    """Why the native backend is not even tried, or None."""
    if backend is Backend.REFERENCE:
        return _ASKED_FOR
    return None if device.type == "cpu" else f"native runs on the CPU only, and this is {device}"


def checked_backend(name: str, device: torch.device = _CPU) -> Backend:
    """The backend of that name, for a device.

    Raises:
        OptionError: there is none.
        BackendError: it is `native`, and the device is not the CPU, or the extension cannot be
            used here.
    """
    if name not in list(Backend):
        raise OptionError(f"backend is {name!r}; expected one of {[str(b) for b in Backend]}")
    if name == Backend.NATIVE:
        if device.type != "cpu":
            raise BackendError(
                f"backend is native, which runs on the CPU only, and device is {device}; expected "
                "backend auto or reference there, or device cpu"
            )
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
        inputs: example inputs; only shapes and their device matter.

    Raises:
        BackendError: the native backend was asked for by name and cannot be used.
    """
    device = inputs[0].device
    reason = _only_reference(backend, device)
    if reason is not None:
        executor = ReferenceExecutor(graph, layers, device)
        return executor, Serving(executor.backend, reason)
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
        executor = ReferenceExecutor(graph, layers, device)
        return executor, Serving(executor.backend, str(error))


@cache
def _tell(reason: str) -> None:
    """Log a reason for the reference backend, once per process: streams share it."""
    _log.warning("the reference backend serves, native cannot: %s", reason)
