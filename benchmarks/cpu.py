"""Ours beside the best int8 runtimes on this CPU: one network, one clip, one run.

    python -m benchmarks.cpu --model street --size 360x480 --clip pedestrians --threads 2 \
        --json out/cpu/street.json [--tune-drop 0.5]

Every runtime gets the same preprocessed frames, float32 [1, 3, H, W], and the same number of
threads, and runs with the fastest of its own settings, chosen on this machine before anything is
compared (`benchmarks.peers`). int8 peers take their ranges from frames of the very clip.

How runtimes share the machine. Each one lives in a process of its own, since a thread that waits
by spinning, two OpenMP libraries in one process, or one library's settings would slow another.
They take turns in blocks of frames, by default one period; a block ends with a pause, in which
what still spins goes to sleep, and the next starts with one frame that is not timed (of ours, a
keyframe of another stream). So every runtime computes with warm caches and awake threads, as it
would alone, yet noise of the machine falls on all alike. Whether a peer loses by taking turns is
in the result: `alone_ms` is its median from before any later runtime was loaded, to be set beside
`keyframe_ms`. With --block 1 runtimes alternate frame by frame.

What each figure is:

- keyframe_ms, residual_ms: median and p99 by kind; a peer's frames are all of one kind;
- amortized_ms: mean over whole periods; frames_per_second_per_core: 1000 / amortized / threads;
- agreement_fp32: with the float network of `torch_fp32`. Of segmentation, the share of pixels
  whose largest logit, after bilinear resizing to the input's size, is of the same class; of pose,
  the share of joints whose heatmap's maximum lies within 0.05 of the crop's longer side;
- agreement_dense: the same, of `resq` with `resq_dense`; miou: where the network was trained on
  the labels that the clip has;
- rss_growth_bytes: of the process, from before the runtime's library was imported until after its
  first frames; rss_growth_without_libraries_bytes: the same without the import;
- of ours: state_bytes; active_fraction a, of outputs that must be computed, and mean_bits, over
  residual frames; alpha, outputs that must be computed over inputs that changed; bops_saving over
  all frames, 1 for free. The policy's threshold is the model's own unless it is given or tuned:
  --tune-drop POINTS fits factors by layer on six periods spread over the clip and then takes the
  largest threshold that loses so much on it, against `resq_dense`: of mIoU where the network knows
  the clip's labels, else of agreement with the float network; where repeating each keyframe's
  output is within the tolerance too, half of what that loses (`tuning.hold_drop`), since computing
  nothing would win there. int8 peers take their ranges from the same clip. `hold_agreement_fp32`
  is of `resq_dense` whose outputs are repeated over each period.
- of ours on one thread, from another pass over the clip once the turns are over, where the native
  backend runs it:
  o, bookkeeping: time of a residual frame that goes into anything but products (policy, lists of
  pixels, quantization, copies, element-wise work), mean over the residual frames, over the median
  time of our own dense W8A8 frame;
  eta, kernel efficiency η: MAC/s of the products of listed pixels (pixels computed, times MACs of
  an output pixel, over seconds in products) over those of oneDNN's dense int8 convolution of the
  same shapes in the same process, mean of the ratios weighted by MACs. It counts convolutions with
  at least 64 channels in and out, in residual frames in which 5 to 30 % of their outputs are
  active, and is absent where there are none.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.clips import DRAWN, Clip
from benchmarks.crew import WorkerError, WorkerProcess
from benchmarks.figures import as_markdown, ratios, timing
from benchmarks.job import Job
from benchmarks.machine import described
from benchmarks.ours import OURS
from benchmarks.peers import CANDIDATES
from benchmarks.plot import draw
from benchmarks.preparation import prepare
from benchmarks.subjects import Subject, size_of
from benchmarks.tuning import tune
from resq_core import models

__all__ = ["main", "measure", "parser"]

_PAUSE = 0.1  # seconds after a block; ONNX Runtime's threads spin for a few hundredths
_MAX_ACTIVE = 0.6  # a residual frame with more active outputs costs about a keyframe
_BUSY = 0.5  # cores; the load average of the last minute before the run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("python -m benchmarks.cpu", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--model", default="street", help=f"street or {', '.join(models.names())}")
    made.add_argument("--size", default=(360, 480), type=size_of, metavar="HxW")
    made.add_argument("--clip", default="pedestrians", help=f"a path or {', '.join(DRAWN)}")
    made.add_argument("--frames", default=48, type=int, help="cut to whole periods")
    made.add_argument("--threads", default=2, type=int)
    made.add_argument("--period", default=8, type=int)
    made.add_argument("--block", type=int, help="frames in a turn; a period if not given")
    made.add_argument("--reference", default="tracking")
    made.add_argument("--threshold", type=float)
    made.add_argument("--tune-drop", type=float, metavar="POINTS")
    made.add_argument("--max-active", type=float, default=_MAX_ACTIVE)
    made.add_argument("--backend", help="of ours")
    made.add_argument("--json", default=Path("out/cpu/result.json"), type=Path)
    return made


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One comparison, as it is written to the JSON."""
    load = os.getloadavg()[0]
    period = arguments.period
    count = arguments.frames // period * period
    if count == 0:
        raise SystemExit(f"{arguments.frames} frames hold no period of {period}")
    subject = Subject(arguments.model, arguments.size)
    clip = subject.clip(arguments.clip, count)
    frames = subject.inputs(clip)
    with tempfile.TemporaryDirectory() as folder:
        cache, failures = prepare(subject, frames, Path(folder), period)
        values = {
            "folder": folder,
            "cache": str(cache),
            "shape": (1, *frames.shape[1:]),
            "frames": count,
            "threads": arguments.threads,
            "period": period,
            "reference": arguments.reference,
            "threshold": arguments.threshold,
            "factors": None,
            "max_active": arguments.max_active,
            "backend": arguments.backend,
        }
        job = Job(**values)
        job.write(frames.numpy())
        tuning = None
        if arguments.tune_drop is not None:
            tuning = tune(subject, clip, job, arguments.tune_drop)
            found = {name: tuning[name] for name in ("threshold", "factors")}
            job = Job(**values | found)
            job.write(frames.numpy())
        block = arguments.block or period
        rows, skipped = _compare(job, failures, block)
        _score(subject, clip, job, rows)
    return {
        "command": shlex.join(["python", "-m", "benchmarks.cpu", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": described() | {"load_before": load},
        "model": arguments.model,
        "size": list(arguments.size),
        "clip": clip.name,
        "frames": count,
        "threads": arguments.threads,
        "period": period,
        "block": block,
        "reference": arguments.reference,
        "threshold": job.threshold,
        "max_active": job.max_active,
        "backend": arguments.backend,
        "tuning": tuning,
        "ratios": ratios(rows),
        "runtimes": rows,
        "skipped": skipped,
    }


def _compare(
    job: Job, failures: dict[str, str], block: int
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Load every runtime, then let all of them take turns."""
    rows: dict[str, dict[str, Any]] = {}
    skipped = [{"name": name, "reason": reason} for name, reason in failures.items()]
    with ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        for name in [n for n in (*CANDIDATES, *OURS) if n not in failures]:
            worker = stack.enter_context(WorkerProcess(job.threads))
            try:
                rows[name] = _load(worker, job, name)
                workers[name] = worker
            except WorkerError as error:
                skipped.append({"name": name, "reason": str(error)})
        _take_turns(workers, rows, job.frames, block)
        for name in OURS:
            if name in workers:
                rows[name] |= workers[name].tell("describe")
    for row in rows.values():
        facts = row.pop("facts")
        keyframes = [f["is_anchor"] for f in facts] or [True] * job.frames
        row |= timing(row["milliseconds"], keyframes, job.threads) | _reported(facts)
    return list(rows.values()), skipped


def _load(worker: WorkerProcess, job: Job, name: str) -> dict[str, Any]:
    """Choose a runtime's settings, open it, and time it while no other one runs."""
    choice: dict[str, Any] = {"candidate": None}
    if name in CANDIDATES:
        if len(CANDIDATES[name]) == 1:
            choice = {"candidate": next(iter(CANDIDATES[name]))}
        else:
            with WorkerProcess(job.threads) as scout:
                choice = scout.tell("pick", folder=job.folder, runtime=name)
    loaded = worker.tell("load", folder=job.folder, runtime=name, candidate=choice["candidate"])
    row: dict[str, Any] = {"name": name, **loaded, **choice, "milliseconds": [], "facts": []}
    alone = worker.tell("run", start=0, stop=min(job.period, job.frames), keep=False)
    kinds = [fact["is_anchor"] for fact in alone["facts"]] or [True] * len(alone["ms"])
    row["alone_ms"] = median(ms for ms, is_key in zip(alone["ms"], kinds, strict=True) if is_key)
    return row


def _take_turns(
    workers: dict[str, WorkerProcess], rows: dict[str, dict[str, Any]], frames: int, block: int
) -> None:
    names = list(workers)
    for turn, start in enumerate(range(0, frames, block)):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            stop = min(start + block, frames)
            reply = workers[name].tell("run", start=start, stop=stop, keep=True)
            rows[name]["milliseconds"] += reply["ms"]
            rows[name]["facts"] += reply["facts"]
            rows[name]["output_shape"] = reply["shape"]
            time.sleep(_PAUSE)


def _reported(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What our frames said, over all of them."""
    if not facts:
        return {}
    found: dict[str, Any] = {
        "bops_saving": 1 - sum(f["bops"] for f in facts) / sum(f["bops_w8a8"] for f in facts)
    }
    residual = [fact for fact in facts if not fact["is_anchor"]]
    for name in ("active_fraction", "mean_bits"):
        if residual:
            found[name] = mean(fact[name] for fact in residual)
    return found


def _score(subject: Subject, clip: Clip, job: Job, rows: Sequence[dict[str, Any]]) -> None:
    """Add to every row how its outputs agree with the float network's, and with the labels."""
    shapes = {row["name"]: row["output_shape"] for row in rows}
    reference = subject.answers(job.outputs("torch_fp32", shapes["torch_fp32"]))
    dense = None
    for row in rows:
        outputs = job.outputs(row["name"], row["output_shape"])
        answers = subject.answers(outputs)
        row["agreement_fp32"] = subject.agreement(answers, reference, row["output_shape"])
        if row["name"] == "resq_dense":
            dense = answers
            held = answers[np.arange(job.frames) // job.period * job.period]
            row["hold_agreement_fp32"] = subject.agreement(held, reference, row["output_shape"])
        if row["name"] == "resq" and dense is not None:
            row["agreement_dense"] = subject.agreement(answers, dense, row["output_shape"])
        if clip.labels and subject.knows_labels:
            row["miou"] = subject.miou(outputs, clip.labels)


def main() -> None:
    """Measure, write the JSON and a plot beside it, print the table."""
    arguments = parser().parse_args()
    result = measure(arguments)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    draw(result, arguments.json.with_suffix(".png"))
    if result["machine"]["load_before"] > _BUSY:
        print("others used this machine's cores just before: timings are rough", file=sys.stderr)
    print(as_markdown({arguments.json.stem: result}))


if __name__ == "__main__":
    main()
