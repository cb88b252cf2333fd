"""The conformance kit: golden files, its deterministic weights and inputs, and comparisons."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from resq_core.capture import capture


def golden(shared: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((shared / "golden" / f"{name}.json").read_text())
    return loaded


def drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return np.asarray(generator.standard_normal(shape))


def filled_value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    z = drawn(key, shape)
    if key.endswith("running_var"):
        return 1 + 0.1 * np.abs(z)
    if key.endswith(("running_mean", "bias")):
        return 0.1 * z
    if len(shape) == 1:
        return 0.5 * (1 + 0.1 * z)
    return z * np.sqrt(2 / np.prod(shape[1:]))


def fill(net: nn.Module, constants: Sequence[str] = ()) -> str:
    """Fill all but the constants by the kit's rule; the digest of all, in state-dict order."""
    digest = hashlib.sha256()
    state = net.state_dict()
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            tensor.fill_(1)
            continue
        if key not in constants:
            value = filled_value(key, tuple(tensor.shape)).astype("<f4")
            tensor.copy_(torch.from_numpy(value))
        digest.update(tensor.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def assert_golden(got: Tensor, want: dict[str, Any], what: str, tolerance: float = 1e-4) -> None:
    """Recorded values and statistics, to a tolerance in standard deviations of the output."""
    assert list(got.shape) == want["shape"], what
    values = got.flatten()[want["positions"]].double()
    gap = (values - torch.tensor(want["values"], dtype=torch.float64)).abs().max().item()
    assert gap <= tolerance * want["std"], f"{what}: {gap} against a std of {want['std']}"
    assert abs(got.double().mean().item() - want["mean"]) <= tolerance * want["std"], what
    assert abs(got.double().std(correction=0).item() - want["std"]) <= tolerance * want["std"], what


def manifest_of(state: dict[str, Tensor]) -> list[list[Any]]:
    """[key, shape, type] in order, as the golden files list them."""
    return [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in state.items()]


def normal(key: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 values that depend on the key alone."""
    return torch.from_numpy(drawn(key, shape).astype(np.float32))


def conv_rows(net: nn.Module, *inputs: Tensor) -> list[list[Any]]:
    """Per convolution in execution order: name, multiply-adds, input and output shape."""
    rows: list[list[Any]] = []

    def note(name: str) -> Any:
        def hook(conv: nn.Conv2d, given: tuple[Tensor], output: Tensor) -> None:
            macs = output.numel() * conv.weight[0].numel()
            rows.append([name, macs, list(given[0].shape), list(output.shape)])

        return hook

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note(name))
    net(*inputs)
    return rows


def assert_captured(module: nn.Module, inputs: list[Tensor]) -> None:
    """The captured graph holds every convolution and gives the module's own outputs.

    Folding batch norm changes the rounding, so outputs agree to 1e-4 of their deviation.
    """
    with torch.inference_mode():
        graph = capture(module, inputs)
        got = graph.run(inputs, lambda op, x: op.apply(x, op.weight, op.bias))
        want = module(*inputs)
    convs = {name for name, part in module.named_modules() if isinstance(part, nn.Conv2d)}
    assert set(graph.macs) == convs
    for mine, theirs in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4 * theirs.std().item())
