"""One frozen network, captured once for each input shape, shared by threads."""

from __future__ import annotations

import copy
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from resq_core.capture import Graph, capture
from resq_core.errors import CaptureError, CheckpointError, InputError

__all__ = ["MAX_PIXELS", "GraphCache", "check_inputs"]

MAX_PIXELS = 2**25
"""Largest frame, in pixels (33.5 million, 8K video)."""

_MAX_GRAPHS = 8


class GraphCache:
    """A private, frozen copy of a module and its captured graphs.

    The module stays on the CPU, where it is captured; its graphs run on the device.

    Args:
        module: any `nn.Module`; it is copied, put into eval mode, and never changed.
        device: where graphs run.

    Raises:
        CaptureError: the module cannot be copied.
        CheckpointError: a weight holds NaN or infinity; the message names it.
    """

    def __init__(self, module: nn.Module, device: torch.device | None = None) -> None:
        self.device = torch.device("cpu") if device is None else device
        if not isinstance(module, nn.Module):
            raise CaptureError(f"expected a torch.nn.Module, got {type(module).__name__}")
        try:
            self.module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
        except Exception as error:
            raise CaptureError(f"cannot copy {type(module).__name__}: {error}") from error
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"weight {name!r} holds NaN or infinity; expected numbers")
        self._graphs: OrderedDict[tuple[tuple[int, ...], ...], Graph] = OrderedDict()
        self._lock = threading.Lock()

    def graph(self, inputs: Sequence[Tensor]) -> Graph:
        """The graph for the shapes of `inputs`; captured and compared with the module once.

        Raises:
            CaptureError: the module cannot be captured, or its graph computes something else.
        """
        shapes = tuple(tuple(x.shape) for x in inputs)
        with self._lock:
            found = self._graphs.get(shapes)
            if found is not None:
                self._graphs.move_to_end(shapes)
                return found
            examples = [x.cpu() for x in inputs]
            captured = capture(self.module, examples)
            if not self._graphs:
                _compare(self.module, captured, examples)
            graph = self._graphs[shapes] = captured.to(self.device)
            if len(self._graphs) > _MAX_GRAPHS:
                self._graphs.popitem(last=False)
            return graph

    def inputs(self, x: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Inputs as `check_inputs` has them, on the device. Raises as it does."""
        return tuple(t.detach().to(self.device) for t in check_inputs(x))

    def latest(self) -> Graph | None:
        """The graph used last, or None before the first capture."""
        with self._lock:
            return next(reversed(self._graphs.values()), None)


def check_inputs(x: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Inputs as a tuple, checked.

    Args:
        x: one float32 tensor, or a sequence of them for a network with several inputs.

    Raises:
        InputError: not float32, empty, larger than `MAX_PIXELS`, or holding NaN or infinity.
    """
    inputs = (x,) if isinstance(x, Tensor) else tuple(x)
    for i, tensor in enumerate(inputs):
        what = f"input {i}" if len(inputs) > 1 else "the frame"
        if not isinstance(tensor, Tensor):
            raise InputError(f"{what} is {type(tensor).__name__}; expected a torch.Tensor")
        if tensor.dtype != torch.float32:
            raise InputError(f"{what} has dtype {tensor.dtype}; expected torch.float32")
        if tensor.ndim == 0 or tensor.numel() == 0:
            raise InputError(f"{what} has shape {list(tensor.shape)}; expected at least one value")
        pixels = tensor.shape[-1] * tensor.shape[-2] if tensor.ndim >= 4 else 1
        if pixels > MAX_PIXELS:
            raise InputError(f"{what} has {pixels} pixels; expected at most {MAX_PIXELS}")
        low, high = _extremes(tensor.detach())
        if not math.isfinite(high - low):  # NaN is handed on
            raise InputError(f"{what} holds NaN or infinity; expected finite numbers")
    if not inputs:
        raise InputError("no input; expected at least one tensor")
    return inputs


def _extremes(tensor: Tensor) -> tuple[float, float]:
    if tensor.device.type != "cpu":
        low, high = tensor.aminmax()
        return low.item(), high.item()
    # numpy's one thread: torch's would go on spinning on the cores that the frame needs
    values = tensor.numpy()
    return float(values.min()), float(values.max())


def _compare(module: nn.Module, graph: Graph, inputs: Sequence[Tensor]) -> None:
    with torch.no_grad():
        wanted: Any = module(*inputs)
        got = graph.run(inputs, lambda op, x: op.apply(x, op.weight, op.bias))
    for a, b in zip(pytree.tree_leaves(wanted), pytree.tree_leaves(got), strict=True):
        if not isinstance(a, Tensor):
            continue
        spread = a.double().std(correction=0).item()
        worst = (a.double() - b.double()).abs().max().item()
        # an output that hardly varies is compared at float32's own resolution of its values
        resolution = 1e-5 * a.double().abs().max().item() + torch.finfo(torch.float32).tiny
        if not worst <= 1e-3 * spread + resolution:
            raise CaptureError(
                f"the captured graph of {type(module).__name__} departs from the module by "
                f"{worst:.3g} (standard deviation of the output {spread:.3g}); "
                "is the module random in eval mode?"
            )
