"""The setting of ours that a tolerance allows: factors by layer, then the common threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks.clips import Clip
from benchmarks.figures import largest_passing
from benchmarks.job import Job
from benchmarks.ours import first_output, load, open_stream
from benchmarks.subjects import PRECISION, Subject
from resq_core.precision import Precision
from resq_core.tuning import Point, fit_factors, group_layers

__all__ = ["tune"]

_CANDIDATES = [float(f"{rho:.2g}") for rho in np.geomspace(0.005, 0.64, 29)]
_PERIODS = 6  # that factors are fitted on, spread over the clip


class _Frames:
    """Frames of the clip that settings are measured on; see `resq_core.tuning.Measures`."""

    def __init__(self, subject: Subject, clip: Clip, job: Job, chosen: Sequence[int]) -> None:
        self._subject, self._job = subject, job
        self._model = load(job)
        self._inputs = [torch.from_numpy(job.frame(i)) for i in chosen]
        known = bool(clip.labels) and subject.knows_labels
        self._labels = [clip.labels[i] for i in chosen] if known else None
        network = subject.network()
        with torch.no_grad():
            outputs = [_first(network(x)).numpy() for x in self._inputs]
        self._float = subject.answers(outputs)
        self._shape = outputs[0].shape
        dense = open_stream(load(job, "resq_dense"), job)
        self.measure_name = "miou" if known else "agreement_fp32"
        frames = [first_output(dense.step(x)).numpy() for x in self._inputs]
        self.baseline = self._score(frames)
        held = [frames[i // job.period * job.period] for i in range(len(frames))]
        self.hold_drop = self.baseline - self._score(held)

    def _score(self, outputs: Sequence[Any]) -> float:
        if self._labels is not None:
            return 100 * self._subject.miou(outputs, self._labels)
        answers = self._subject.answers(outputs)
        return 100 * self._subject.agreement(answers, self._float, self._shape)

    def measure(
        self,
        precision: Precision,
        period: int,
        threshold: float,
        factors: Mapping[str, float] | None = None,
    ) -> Point:
        model = self._model.with_precision(precision)
        stream = model.stream(
            period=period, reference=self._job.reference, threshold=threshold, factors=factors
        )
        results = [stream.step(x) for x in self._inputs]
        score = self._score([first_output(result).numpy() for result in results])
        return Point(
            precision=precision,
            period=period,
            threshold=threshold,
            drop=self.baseline - score,
            bops=1 - stream.totals.saving,
            mean_bits=mean(result.mean_bits for result in results),
            active_fraction=mean(result.active_fraction for result in results),
            ms=0.0,
        )


def tune(subject: Subject, clip: Clip, job: Job, drop: float) -> dict[str, Any]:
    """Fit factors on some periods, then find the largest threshold on the whole clip.

    Where repeating the last keyframe's output keeps the tolerance as well, the fastest setting is
    to compute nothing in between, which says nothing about a residual frame. The tolerance is then
    half of what that loses.

    Args:
        drop: percentage points that ours may lose against `resq_dense`: of mIoU where labels are
            known, else of agreement with the float network.

    Returns:
        threshold; factors by layer; met, whether any threshold passed (if not, it is the smallest
        one); measure; drop, the tolerance that was kept; hold_drop, what repeating loses;
        baseline, what `resq_dense` scores; single, the best threshold without factors; curve,
        what was tried on the whole clip.
    """
    torch.set_num_threads(1)  # its threads would spin in the way of ours between two frames
    precision = Precision.parse(PRECISION)
    whole = _Frames(subject, clip, job, range(job.frames))
    if whole.hold_drop <= drop:
        drop = max(whole.hold_drop, 0.0) / 2
    curve: list[dict[str, Any]] = []

    def largest(factors: Mapping[str, float]) -> Point | None:
        points: dict[float, Point] = {}

        def passes(threshold: float) -> bool:
            point = points[threshold] = whole.measure(precision, job.period, threshold, factors)
            curve.append(
                {
                    "factors": bool(factors),
                    "threshold": threshold,
                    "drop": point.drop,
                    "mean_bits": point.mean_bits,
                    "active_fraction": point.active_fraction,
                }
            )
            return point.drop <= drop

        found = largest_passing(_CANDIDATES, passes)
        return None if found is None else points[found]

    best, factors = largest({}), {}
    single = None if best is None else best.threshold
    if best is not None:
        count = job.frames // job.period
        spread = {round(i) for i in np.linspace(0, count - 1, min(count, _PERIODS))}
        some = [p * job.period + i for p in sorted(spread) for i in range(job.period)]
        layers = list(load(job).macs(torch.zeros(job.shape)))
        fitted = fit_factors(_Frames(subject, clip, job, some), best, group_layers(layers))
        layered = largest(fitted)
        if layered is not None and layered.active_fraction < best.active_fraction:
            best, factors = layered, fitted
    return {
        "threshold": _CANDIDATES[0] if best is None else best.threshold,
        "factors": factors,
        "met": best is not None,
        "measure": whole.measure_name,
        "drop": drop,
        "hold_drop": whole.hold_drop,
        "baseline": whole.baseline,
        "single": single,
        "curve": sorted(curve, key=lambda point: (point["factors"], point["threshold"])),
    }


def _first(output: Any) -> torch.Tensor:
    """The first tensor that a network returns."""
    first: torch.Tensor = torch.utils._pytree.tree_leaves(output)[0]
    return first
