"""Weights of any known origin into our networks, strictly: every key accounted for, all finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resq_core.errors import CheckpointError
from resq_core.models.checkpoint_files import (
    check_finite,
    listed,
    read_tensors,
    sha256_of,
    write_tensors,
)
from resq_core.models.key_names import AUX_HEAD, Naming, to_official
from resq_core.models.likeness import counted_options, expected, lookalike
from resq_core.models.registry import architecture_of

__all__ = ["Conversion", "convert", "load_weights", "options_in"]


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Put the weights of a checkpoint into `module`, in place.

    `path` is a `.safetensors` file, or a PyTorch file with a dictionary of tensors, also under
    `state_dict` or `model` (nothing in it is executed). Keys may be the official ones or those of
    mmpose and mmseg, with one prefix `module.` or `model.` that all share. `loss.*` is left out,
    and so is the auxiliary head where `module` has none; biases that mmseg lacks become zeros.

    Raises CheckpointError for a file that cannot be read or exceeds 4 GiB, for keys that are
    missing, unexpected, of another shape or type (naming the network that they look like), and
    for NaN or infinity. `module` is then unchanged.
    """
    path = Path(path)
    known = architecture_of(module)
    weights, naming = to_official(read_tensors(path))
    own = known["name"] if known else ""
    module.load_state_dict(_fitted(weights, naming, module.state_dict(), path, own))


def options_in(path: str | Path, arch: str) -> dict[str, Any]:
    """What a checkpoint's weights show of the options of `build`: counts, how fine, what backbone.

    Raises CheckpointError for a file that cannot be read, UnknownModelError for `arch`.
    """
    weights, _ = to_official(read_tensors(Path(path)))
    return counted_options(arch, weights)


@dataclass(frozen=True)
class Conversion:
    """A checkpoint that was written again with official names.

    Attributes:
        path: the `.safetensors` file.
        arch, options: what `build` takes for it.
        naming: of the source: `official`, `mmpose`, `mmseg-hrnet` or `mmseg-ddrnet`.
        source_sha256: of the source file.
        zeros: official biases that the source has no partner for.
    """

    path: Path
    arch: str
    options: Mapping[str, object]
    naming: str
    source_sha256: str
    zeros: tuple[str, ...]


def convert(
    source: str | Path,
    arch: str,
    out: str | Path,
    options: Mapping[str, object] | None = None,
    notes: Mapping[str, str] | None = None,
) -> Conversion:
    """Write a checkpoint of any origin that `load_weights` reads as safetensors, whole or not.

    Args:
        source: the file.
        arch: a network's name, as `build` takes it.
        out: the file to write, which is replaced; its folder is made.
        options: as `build` takes them. The number of joints or classes is read from the weights
            where it is not given; without `aux_head`, an auxiliary head is left out.
        notes: kept in the file's metadata, beside the network, its options and the source.

    Raises:
        CheckpointError: as `load_weights` does.
        UnknownModelError, OptionError: as `build` does.
    """
    source, out = Path(source), Path(out)
    weights, naming = to_official(read_tensors(source))
    full = {**counted_options(arch, weights), **(options or {})}
    wanted = expected(arch, **full)
    fitted = _fitted(weights, naming, wanted, source, arch)
    zeros = tuple(key for key in naming.no_bias if key not in weights)
    digest = sha256_of(source)
    metadata = {
        **(notes or {}),
        "arch": arch,
        **{name: str(value).lower() for name, value in full.items()},
        "source": source.name,
        "source_sha256": digest,
        "source_naming": naming.name,
    }
    write_tensors(out, fitted, metadata)
    return Conversion(out, arch, full, naming.name, digest, zeros)


def _fitted(
    weights: dict[str, Tensor], naming: Naming, wanted: Mapping[str, Tensor], path: Path, arch: str
) -> dict[str, Tensor]:
    """The weights that `wanted` asks for, in its order."""
    if not any(key.startswith(AUX_HEAD) for key in wanted):
        weights = {k: v for k, v in weights.items() if not k.startswith(AUX_HEAD)}
    for key in naming.no_bias:
        if key in wanted and key not in weights:
            weights = {**weights, key: torch.zeros(wanted[key].shape, dtype=wanted[key].dtype)}
    problems = _differences(wanted, weights)
    if problems:
        raise CheckpointError(
            f"{path} does not fit the network; {'; '.join(problems)}{_hint(weights, arch)}"
        )
    fitted = {key: weights[key] for key in wanted}
    check_finite(fitted, path)
    return fitted


def _differences(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    shared = [key for key in wanted if key in weights]
    shapes = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in shared
        if weights[key].shape != wanted[key].shape
    ]
    types = [
        f"{key} {_type(weights[key])} instead of {_type(wanted[key])}"
        for key in shared
        if weights[key].dtype != wanted[key].dtype
    ]
    found = {
        "missing": [key for key in wanted if key not in weights],
        "unexpected": [key for key in weights if key not in wanted],
        "of another shape": shapes,
        "of another type": types,
    }
    return [f"{word}: {listed(keys)}" for word, keys in found.items() if keys]


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _hint(weights: Mapping[str, Tensor], arch: str) -> str:
    """What else the weights look like, where that is not what was asked for."""
    other = lookalike(weights)
    return f"; its keys look like {other}" if other and other != arch else ""
