"""Milliseconds per frame of the street model: float, frame quantization, ResQ, in one run.

    python benchmarks/frames.py [--clip CLIP.mp4] [--frames 48] [--threads 2]

Without a clip two drawn streets are used, one from a static and one from a moving camera. All rows
of a clip take the same frames in turn, so that noise on the machine falls on all alike. Float is
PyTorch's eager network, not the captured graph.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resq_core import models, zoo
from resq_core.tasks import SegmentationTask
from resq_core.world import Street
from service.decoder import open_clip

PERIOD = 8


def clips(path: Path | None, frames: int, task: SegmentationTask) -> dict[str, list[Tensor]]:
    """Network inputs by clip name."""
    if path is not None:
        with open_clip(path) as video:
            return {path.name: [task.preprocess(f.image) for f in islice(video, frames)]}
    streets = {f"street, {camera} camera": Street(camera=camera) for camera in ("static", "moving")}
    return {
        name: [task.preprocess(street.frame(t).image) for t in range(frames)]
        for name, street in streets.items()
    }


def time_clip(frames: Sequence[Tensor]) -> dict[str, Any]:
    """Medians in ms, and what the ResQ stream reports."""
    quantized = zoo.load("street")
    network = models.build("ddrnet23_slim", num_classes=11, aux_head=True).eval()
    dense, resq = quantized.with_precision("W8A8").stream(), quantized.stream(period=PERIOD)
    runs: dict[str, Callable[[Tensor], Any]] = {
        "float": network,
        "frame W8A8": dense.step,
        "resq": resq.step,
    }
    spent: dict[str, list[float]] = {name: [] for name in (*runs, "resq residual")}
    active: list[float] = []
    with torch.no_grad():
        for index, frame in enumerate(frames):
            for name, run in runs.items():
                start = time.perf_counter()
                result = run(frame)
                spent[name].append(1000 * (time.perf_counter() - start))
            if not result.is_anchor:
                spent["resq residual"].append(spent["resq"][index])
                active.append(result.active_fraction)
    warm = {name: values[2:] for name, values in spent.items()}
    return {
        "milliseconds": {name: round(statistics.median(v), 1) for name, v in warm.items()},
        "resq_mean_ms": round(statistics.mean(warm["resq"]), 1),
        "active_fraction": round(statistics.mean(active), 4),
        "mean_bits": round(resq.totals.mean_bits, 3),
        "bop_saving": round(resq.totals.saving, 4),
    }


def main() -> None:
    """Print one line of JSON per clip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    card = zoo.card("street")
    task = card.segmentation()
    for name, frames in clips(arguments.clip, arguments.frames, task).items():
        row = {"clip": name, "frames": len(frames), "threads": arguments.threads, "period": PERIOD}
        print(json.dumps(row | time_clip(frames)))


if __name__ == "__main__":
    main()
