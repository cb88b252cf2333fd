"""Capture: any `nn.Module` → a functional graph whose linear layers are visible.

`torch.export` traces the module as it is, without an edit; its functionalization turns in-place
ops into pure ones, so nothing can write into a cached tensor. `lowering` then finds the layers.
See docs/capture.md for what was compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from resq_core.errors import CaptureError
from resq_core.graph import Graph
from resq_core.lowering import lower
from resq_core.matching import DECOMPOSED

__all__ = ["Graph", "capture", "export"]


def capture(module: nn.Module, inputs: Sequence[Tensor]) -> Graph:
    """Capture a module in eval mode for inputs of the given shapes.

    Args:
        module: any module that `torch.export` can trace; it is not changed.
        inputs: example inputs, float32; only shapes, dtypes and devices matter.

    Raises:
        CaptureError: naming the submodule and the reason.
    """
    program = export(module, inputs)
    with torch.no_grad():
        return lower(program, tuple(tuple(x.shape) for x in inputs))


def export(module: nn.Module, inputs: Sequence[Tensor]) -> ExportedProgram:
    """Trace a module in eval mode; the program has the module's own parameters.

    Raises:
        CaptureError: as `capture`.
    """
    shapes = tuple(tuple(x.shape) for x in inputs)
    # a tensor given twice would be traced as one input, and the graph would ignore the other
    examples = tuple(x.clone() for x in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = _export(module, examples)
        except Exception as error:
            raise CaptureError(_explain(module, shapes, error)) from error
    _refuse_side_effects(program)
    return program


def _export(module: nn.Module, inputs: Sequence[Tensor]) -> ExportedProgram:
    """Trace under the grad mode that is torch's default: a module may switch it on or off inside,
    and a region that differs from the mode outside becomes a graph of its own."""
    known = torch.export.default_decompositions()
    with torch.enable_grad():
        traced: ExportedProgram = torch.export.export(module, tuple(inputs), strict=False)
        plain: ExportedProgram = traced.run_decompositions({op: known[op] for op in DECOMPOSED})
        return plain


def _explain(module: nn.Module, shapes: tuple[tuple[int, ...], ...], error: Exception) -> str:
    """Name the innermost submodule that was running, and the first line of the reason."""
    names = {id(m): n for n, m in module.named_modules()}
    where = f"{type(module).__name__}"
    traceback = error.__traceback__
    while traceback is not None:
        code, variables = traceback.tb_frame.f_code, traceback.tb_frame.f_locals
        owner = variables.get(code.co_varnames[0]) if code.co_varnames else None
        if isinstance(owner, nn.Module) and id(owner) in names and code.co_name == "forward":
            label = names[id(owner)] or "the model itself"
            where = f"{label} ({type(owner).__name__}, {code.co_filename}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (
        f"cannot capture {type(module).__name__} for input shapes {[list(s) for s in shapes]}: "
        f"in {where}: {type(error).__name__}: {reason[:300]}"
    )


def _refuse_side_effects(program: ExportedProgram) -> None:
    mutated = program.graph_signature.buffers_to_mutate
    if mutated:
        names = sorted(set(mutated.values()))
        raise CaptureError(
            f"the model writes to its own buffers {names[:5]} while it runs; expected a model "
            "without state in eval mode (ResQ keeps a stream's state outside the model)"
        )
