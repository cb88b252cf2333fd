"""Does a residual frame cost what changed? Its time against the active share, of ours alone.

    python -m benchmarks.linear --model street --size 360x480 --threads 1 --json out/cpu/linear.json

In a picture that otherwise stays as it is, bit for bit, a rectangle in the middle is noise, anew in
every frame. Its area is 0, 5, 10, 20, ... 100 % of the picture, one stream for each. Streams, and
one of dense W8A8 frames, take turns in blocks, the first frame of each not timed. The JSON has

- points: for each share of the area the median active_fraction of the residual frames (output
  pixels computed, halo included, weighted by MACs) and their median residual_ms;
- dense_ms: median of the dense frames;
- line: the least-squares line through the points, milliseconds = intercept_ms + slope_ms * active
  fraction, and its r2, 1 where all points lie on it.

A plot is written beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.figures import straight_line
from benchmarks.machine import described
from benchmarks.plot import draw_line
from benchmarks.subjects import Subject, size_of
from resq_core import models
from resq_core.stream import MAX_PERIOD, Stream

__all__ = ["SHARES", "main", "measure", "replaced"]

SHARES = (0.0, 0.05, *(tenths / 10 for tenths in range(1, 11)))

_CONTENTS = 8  # pictures of noise; each frame takes the next one
_WARM_UP = 3  # residual frames
_ROUNDS, _TIMED = 4, 6  # blocks, and frames timed in each


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("python -m benchmarks.linear", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--model", default="street", help=f"street or {', '.join(models.names())}")
    made.add_argument("--size", default=(360, 480), type=size_of, metavar="HxW")
    made.add_argument("--threads", default=1, type=int)
    made.add_argument("--json", default=Path("out/cpu/linear.json"), type=Path)
    return made


def replaced(picture: Tensor, content: Tensor, share: float) -> Tensor:
    """A picture, float32 [1, 3, H, W], with a share of it taken from another.

    A rectangle of the picture's proportions, in its middle; share: of the area, 0 to 1.
    """
    result = picture.clone()
    size = picture.shape[2:]
    height, width = (round(length * share**0.5) for length in size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    place = (..., slice(top, top + height), slice(left, left + width))
    result[place] = content[place]
    return result


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All points and the line, as they are written to the JSON."""
    load = os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    subject = Subject(arguments.model, arguments.size)
    still = subject.inputs(subject.clip("still", 1))
    contents = subject.inputs(subject.clip("noise", _CONTENTS)).split(1)
    model = subject.quantized(subject.network(), torch.cat([still, *contents]), MAX_PERIOD)
    streams = [model.stream(period=MAX_PERIOD, max_active=1.0) for _ in SHARES]
    dense = model.with_precision("W8A8").stream()
    frames = [[replaced(still, content, share) for content in contents] for share in SHARES]
    milliseconds: list[list[float]] = [[] for _ in SHARES]
    active: list[list[float]] = [[] for _ in SHARES]
    dense_ms: list[float] = []
    for stream, clip in zip(streams, frames, strict=True):
        for frame in (still, *clip[-_WARM_UP:]):
            stream.step(frame)
    for turn in range(_ROUNDS):
        dense_ms += [_timed(dense, still)[0] for _ in range(1 + _TIMED)][1:]
        for i, stream in enumerate(streams):
            for index in range(1 + _TIMED):
                spent, share = _timed(stream, frames[i][(turn + index) % _CONTENTS])
                if index:
                    milliseconds[i].append(spent)
                    active[i].append(share)
    points = [
        {"area": area, "active_fraction": median(shares), "residual_ms": median(spent)}
        for area, shares, spent in zip(SHARES, active, milliseconds, strict=True)
    ]
    return {
        "command": shlex.join(["python", "-m", "benchmarks.linear", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": described() | {"load_before": load},
        "backend": model.serving(still).backend,
        "model": arguments.model,
        "size": list(arguments.size),
        "threads": arguments.threads,
        "threshold": streams[0].options.policy.threshold,
        "dense_ms": median(dense_ms),
        "points": points,
        "line": straight_line(
            [point["active_fraction"] for point in points],
            [point["residual_ms"] for point in points],
        ),
    }


def _timed(stream: Stream, frame: Tensor) -> tuple[float, float]:
    """Milliseconds and active fraction of a frame."""
    start = time.perf_counter()
    result = stream.step(frame)
    return 1000 * (time.perf_counter() - start), result.active_fraction


def main() -> None:
    """Measure, write the JSON and a plot beside it, print the points."""
    arguments = parser().parse_args()
    result = measure(arguments)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    draw_line(result, arguments.json.with_suffix(".png"))
    print("area  active  ms")
    for point in result["points"]:
        print("{area:4.0%}  {active_fraction:6.1%}  {residual_ms:.2f}".format(**point))
    print(
        "dense {:.2f} ms; line {intercept_ms:.2f} + {slope_ms:.2f} * active, R² {r2:.4f}".format(
            result["dense_ms"], **result["line"]
        )
    )


if __name__ == "__main__":
    main()
