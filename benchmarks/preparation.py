"""What is made once before anything is timed: networks in every runtime's form, calibrated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import exports
from benchmarks.ours import FILE
from benchmarks.peers import CANDIDATES, INT8_FORMS
from benchmarks.subjects import Subject, batch_norm_folded

__all__ = ["CACHE", "prepare"]

CACHE = Path("out") / "bench-cache"
"""Where exported and quantized networks are kept; safe to delete."""

_CALIBRATION = 16  # frames, spread over the clip
_VERSIONED = ("torch", "resq", "onnx", "onnxruntime", "openvino", "nncf")

Array = NDArray[np.float32]


def prepare(subject: Subject, frames: Tensor, folder: Path, period: int) -> tuple[Path, Failures]:
    """Write `network.pt` to a job's folder and everything else to the cache.

    Args:
        frames: of the clip, float32 [N, 3, H, W]; int8 peers take their ranges from 16 of them.

    Returns:
        The folder in the cache, and for each runtime that cannot be had the reason.
    """
    network = subject.network()
    chosen = [int(i) for i in np.linspace(0, len(frames) - 1, min(_CALIBRATION, len(frames)))]
    calibration = [frames[i : i + 1].numpy() for i in chosen]
    height, width = subject.size
    key = _digest(network, calibration, period)
    cache = CACHE / f"{subject.name}-{height}x{width}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / FILE).is_file():
        subject.quantized(network, frames, period).save(cache / FILE)
    folded = batch_norm_folded(network, frames[:1])
    torch.save(folded, folder / "network.pt")
    return cache.resolve(), _export(cache, folded, calibration)


Failures = dict[str, str]


def _export(cache: Path, network: nn.Module, calibration: Sequence[Array]) -> Failures:
    failures: Failures = {}

    def attempt(runtimes: Sequence[str], make: Callable[[], Any]) -> None:
        runtimes = [name for name in runtimes if name not in failures]
        try:
            if runtimes:
                make()
        except Exception as error:  # whatever a foreign package raises, the others go on
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            failures.update(dict.fromkeys(runtimes, reason))

    every_file = [name for name in CANDIDATES if not name.startswith("torch")]
    attempt(every_file, partial(exports.onnx_float, cache, network, calibration[0]))
    for form in INT8_FORMS:
        attempt(["onnxruntime_int8"], partial(exports.onnx_int8, cache, calibration, form))
    for preset in ("performance", "mixed"):
        attempt(["openvino_int8"], partial(exports.nncf_int8, cache, calibration, preset))
    return failures


def _digest(network: nn.Module, calibration: Sequence[Array], period: int) -> str:
    digest = hashlib.sha256(repr([_version(p) for p in _VERSIONED] + [period]).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    for frame in calibration:
        digest.update(frame.tobytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
