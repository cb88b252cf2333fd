"""Our side of the comparison: the one file that knows how this project runs a frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

import resq_core
from benchmarks.efficiency import time_spent
from benchmarks.job import Job
from resq_core.bops import weighted_mean
from resq_core.model import QuantizedModel
from resq_core.stream import StepResult, Stream

__all__ = ["FILE", "OURS", "Ours", "first_output", "load", "open_stream"]

FILE = "model.resq"
OURS = ("resq_dense", "resq")

Array = NDArray[np.float32]


def load(job: Job, runtime: str = "resq") -> QuantizedModel:
    """The job's calibrated model, or the same as W8A8, every frame a keyframe: `resq_dense`."""
    choice = {} if job.backend is None else {"backend": job.backend}
    model = resq_core.load(Path(job.cache) / FILE, **choice)
    return model.with_precision("W8A8") if runtime == "resq_dense" else model


def open_stream(model: QuantizedModel, job: Job) -> Stream:
    """A stream with the job's options."""
    return model.stream(
        period=job.period,
        reference=job.reference,
        threshold=job.threshold,
        factors=job.factors,
        max_active=job.max_active,
    )


def first_output(result: StepResult) -> Tensor:
    """The network's first output, float32."""
    output: Tensor = pytree.tree_leaves(result.output)[0]
    return output


class Ours:
    """A runtime of this project, with the same face as a peer's function, and what it reports."""

    def __init__(self, job: Job, runtime: str) -> None:
        torch.set_num_threads(job.threads)
        self._job, self._runtime = job, runtime
        self._model = load(job, runtime)
        self._other: Stream | None = None
        self.restart()

    def restart(self) -> None:
        """Open a fresh stream: its next frame is a keyframe."""
        self._stream = open_stream(self._model, self._job)
        self._result: StepResult | None = None

    def __call__(self, frame: Array) -> Array:
        """The next frame."""
        self._result = self._stream.step(torch.from_numpy(frame))
        output: Array = first_output(self._result).numpy()
        return output

    def warm(self, frame: Array) -> None:
        """Run a keyframe of another stream: wakes threads, leaves this stream as it is."""
        if self._other is None:
            self._other = open_stream(self._model, self._job)
        self._other.step(torch.from_numpy(frame), anchor="warm_up")

    def facts(self) -> Mapping[str, Any]:
        """What the last frame reported."""
        result = self._result
        assert result is not None
        bops = result.bops
        return {
            "is_anchor": result.is_anchor,
            "active_fraction": result.active_fraction,
            "mean_bits": result.mean_bits,
            "bops": bops.frame + bops.policy,
            "bops_w8a8": bops.w8a8,
        }

    def describe(self) -> dict[str, Any]:
        """Bytes of state after the frames so far; of `resq` also what further passes over it find.

        These are α over the first two periods, and η and o over all frames; see `benchmarks.cpu`.
        """
        found: dict[str, Any] = {"state_bytes": self._stream.nbytes}
        if self._runtime == "resq_dense":
            return found
        options = self._stream.options
        found |= self._halo_growth()
        frames = [torch.from_numpy(self._job.frame(i)) for i in range(self._job.frames)]
        return found | time_spent(self._model, load(self._job, "resq_dense"), options, frames)

    def _halo_growth(self) -> dict[str, Any]:
        """α: outputs that must be computed over inputs that changed, shares weighted by MACs.

        Over residual frames; absent where nothing changes in them.
        """
        self.restart()
        outputs, inputs = [], []
        for index in range(min(2 * self._job.period, self._job.frames)):
            result = self._stream.step(torch.from_numpy(self._job.frame(index)), layers=True)
            layers = result.layers
            if result.is_anchor or not layers:
                continue
            outputs.append(weighted_mean(layers, "active_fraction"))
            inputs.append(weighted_mean(layers, "input_active_fraction"))
        return {"alpha": sum(outputs) / sum(inputs)} if sum(inputs) else {}
