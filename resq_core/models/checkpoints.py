"""Checkpoint files into float modules, strictly: every key accounted for, every value finite."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from resq_core.errors import CheckpointError

__all__ = ["load_weights"]

_WRAPPERS = ("module.", "model.")  # left behind by DataParallel and by loss-computing wrappers
_LOSS = "loss."
_AUX_HEAD = "seghead_extra."
_MAX_BYTES = 4 << 30
_MAX_NAMED = 8


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Put the weights of a checkpoint into `module`, in place.

    `path` is a `.safetensors` file, or a PyTorch file that holds a plain dictionary of tensors
    (nothing else in it is executed). One prefix `module.` or `model.` that all keys share is
    taken off, `loss.*` is left out, and so is the auxiliary head where `module` has none.

    Raises CheckpointError for a file that cannot be read or exceeds 4 GiB, for keys that are
    missing, unexpected or of another shape, and for NaN or infinity. `module` is then unchanged.
    """
    path = Path(path)
    wanted = module.state_dict()
    weights = _without_wrapping(_read(path))
    if not any(key.startswith(_AUX_HEAD) for key in wanted):
        weights = {k: v for k, v in weights.items() if not k.startswith(_AUX_HEAD)}
    _check_keys(wanted, weights, path)
    cast = {key: value.to(wanted[key].dtype) for key, value in weights.items()}
    bad = [key for key, value in cast.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise CheckpointError(f"{path} holds NaN or infinity in {_listed(bad)}")
    module.load_state_dict(cast)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file at {path}")
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes; a checkpoint may have {_MAX_BYTES}"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason}") from error
    return _as_tensors(content, path)


def _as_tensors(content: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; expected a dictionary of tensors"
        )
    strange = [str(k) for k, v in content.items() if not isinstance(v, Tensor)]
    if strange:
        raise CheckpointError(
            f"{path} must hold tensors only, but these entries are something else: "
            f"{_listed(strange)}"
        )
    return {str(key): value for key, value in content.items()}


def _without_wrapping(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """One common prefix off, the training loss out (whether it carries that prefix or not)."""
    weights = {k: v for k, v in weights.items() if not k.startswith(_LOSS)}
    for prefix in _WRAPPERS:
        if weights and all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
            break
    return {k: v for k, v in weights.items() if not k.startswith(_LOSS)}


def _check_keys(wanted: dict[str, Tensor], weights: dict[str, Tensor], path: Path) -> None:
    shared = [key for key in wanted if key in weights]
    shapes = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in shared
        if weights[key].shape != wanted[key].shape
    ]
    problems = [
        f"{word}: {_listed(keys)}"
        for word, keys in (
            ("missing", [key for key in wanted if key not in weights]),
            ("unexpected", [key for key in weights if key not in wanted]),
            ("of another shape", shapes),
        )
        if keys
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the network; {'; '.join(problems)}")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
