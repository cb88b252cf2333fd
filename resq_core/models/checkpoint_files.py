"""Checkpoint files and the tensors in them: nothing in a file is ever executed."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from resq_core.errors import CheckpointError

__all__ = ["check_finite", "listed", "read_tensors", "sha256_of", "write_tensors"]

_WRAPPERS = ("state_dict", "model")  # where training code keeps the weights, in this order
_MAX_BYTES = 4 << 30
_MAX_NAMED = 10
_CHUNK = 1 << 20


class _Inert:
    """Stands in for whatever a training log inside a checkpoint was made of: it does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __new__(cls, *_: object) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


# OpenMMLab's files carry a log beside the weights; the reader must get past these names.
_STANDS_IN_FOR = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by key, on the CPU.

    A `.safetensors` file, or any PyTorch file: a dictionary of tensors, or a training checkpoint
    that keeps one under `state_dict` or `model`. Tensors are dense; shapes and types are any.

    Raises CheckpointError for a file that is absent, larger than 4 GiB (also once unpacked),
    damaged, in need of more than plain tensors, or that holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file at {path}")
    _check_size(path, path.stat().st_size)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_size(path, sum(info.file_size for info in archive.infolist()))
        with torch.serialization.safe_globals([(_Inert, name) for name in _STANDS_IN_FOR]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes make the reader fail in any way there is
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error
    return _as_tensors(_unwrapped(content), path)


def _check_size(path: Path, size: int) -> None:
    if size > _MAX_BYTES:
        raise CheckpointError(f"{path} has {size} bytes; a checkpoint may have {_MAX_BYTES}")


def _reason(error: Exception) -> str:
    """One line; PyTorch's own advice, to load without protection, is not passed on."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted:
        return f"it asks to call {wanted[1]}; only plain tensors are read, nothing is executed"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unwrapped(content: object) -> object:
    if not isinstance(content, Mapping) or any(isinstance(v, Tensor) for v in content.values()):
        return content
    found = (content.get(name) for name in _WRAPPERS)
    return next((inner for inner in found if isinstance(inner, Mapping)), content)


def _as_tensors(content: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; expected a dictionary of tensors"
        )
    strange = [str(k) for k, v in content.items() if not _is_dense(v)]
    if strange:
        raise CheckpointError(
            f"{path} must hold dense tensors only, but these entries are something else: "
            f"{listed(strange)}"
        )
    return {str(key): value.detach() for key, value in content.items()}


def _is_dense(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def write_tensors(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a `.safetensors` file, whole or not at all; its folder is made.

    Raises OSError where the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    own = {
        key: value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()
    }
    try:
        save_file(own, draft, {"format": "pt", **metadata})
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def listed(names: list[str]) -> str:
    """Up to ten of the names, and how many more there are."""
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError, which names the file and the keys, for NaN or infinity."""
    bad = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise CheckpointError(f"{path} holds NaN or infinity in {listed(bad)}")
