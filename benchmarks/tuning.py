"""The largest threshold that a tolerance allows, found on the first part of a clip."""

from __future__ import annotations

from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks.clips import Clip
from benchmarks.figures import largest_passing
from benchmarks.job import Job
from benchmarks.ours import first_output, load, open_stream
from benchmarks.subjects import Subject

__all__ = ["tune"]

_CANDIDATES = [float(f"{rho:.2g}") for rho in np.geomspace(0.01, 1.0, 17)]
_PERIODS = 2


def tune(subject: Subject, clip: Clip, job: Job, drop: float) -> dict[str, Any]:
    """Search the relative policy's thresholds on the first two periods.

    Args:
        drop: percentage points. Against `resq_dense`, mIoU may fall by so much where labels are
            known, else agreement may be so far below 100 %.

    Returns:
        threshold; met, whether any candidate passed (if not, it is the smallest one); measure;
        frames; curve, a point for each candidate tried.
    """
    model = load(job)
    frames = [job.frame(i) for i in range(min(_PERIODS * job.period, job.frames))]
    labels = clip.labels[: len(frames)] if clip.labels and subject.knows_labels else None

    def outputs(runtime: str, threshold: float | None) -> tuple[list[Any], list[Any]]:
        stream = open_stream(model, runtime, job, threshold)
        results = [stream.step(torch.from_numpy(frame)) for frame in frames]
        return [first_output(result).numpy() for result in results], results

    dense, _ = outputs("resq_dense", None)
    answers = subject.answers(dense)
    best = subject.miou(dense, labels) if labels else 1.0
    curve: list[dict[str, float]] = []

    def passes(threshold: float) -> bool:
        found, results = outputs("resq", threshold)
        agreement = subject.agreement(subject.answers(found), answers, dense[0].shape)
        residual = [result for result in results if not result.is_anchor]
        point = {
            "threshold": threshold,
            "agreement_dense": agreement,
            "mean_bits": mean(result.mean_bits for result in residual),
            "active_fraction": mean(result.active_fraction for result in residual),
        }
        if labels:
            point["miou"] = subject.miou(found, labels)
        curve.append(point)
        return 100 * (best - point.get("miou", agreement)) <= drop

    threshold = largest_passing(_CANDIDATES, passes)
    return {
        "threshold": _CANDIDATES[0] if threshold is None else threshold,
        "met": threshold is not None,
        "measure": "miou" if labels else "agreement_dense",
        "drop": drop,
        "frames": len(frames),
        **({"miou_dense": best} if labels else {}),
        "curve": sorted(curve, key=lambda point: point["threshold"]),
    }
