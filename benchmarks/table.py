"""Every comparison that is worth a row: `python -m benchmarks.table [--only WORD] [--threads 2]`.

Runs `benchmarks.cpu` for each, one JSON and one plot each, and writes the tables to
OUT/summary.md. Clips that are not on this machine are replaced by drawn ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import as_markdown

__all__ = ["RUNS", "Comparison"]

_ROOT = Path(__file__).resolve().parents[1]
_DATA = _ROOT.parent / "shared" / "data"
_PERIOD = 8


@dataclass(frozen=True)
class Comparison:
    """A network, its input size, and a clip: a path under the data folder, or a drawn one.

    drawn: taken where the path is not there. period: T.
    """

    model: str
    size: str
    clip: str
    drawn: str = ""
    period: int = _PERIOD

    @property
    def name(self) -> str:
        """For files and tables."""
        period = "" if self.period == _PERIOD else f"-T{self.period}"
        return f"{self.model}-{self.size}-{Path(self.found).stem}{period}"

    @property
    def found(self) -> str:
        """The clip that there is."""
        if not self.drawn:
            return self.clip
        path = _DATA / self.clip
        return str(path) if path.exists() else self.drawn


_PERSON = ("clips/one-by-one-person-detection.mp4", "pedestrians")
_CARS = ("clips/car-detection.mp4", "street-static")
_CAMVID = ("camvid/clip_15hz", "street-moving")

RUNS = (
    Comparison("street", "360x480", *_PERSON),
    Comparison("street", "360x480", *_PERSON, period=32),
    Comparison("street", "360x480", "pedestrians"),
    Comparison("street", "360x480", *_CARS),
    Comparison("street", "360x480", *_CAMVID),
    Comparison("street", "360x480", "still"),
    Comparison("street", "360x480", "noise"),
    Comparison("street", "512x1024", *_PERSON),
    Comparison("street", "512x1024", *_CARS),
    Comparison("street", "512x1024", "pedestrians"),
    Comparison("person", "256x256", *_PERSON),
    Comparison("hrnet_w32_pose", "256x256", *_PERSON),
    Comparison("hrnet_w32_pose", "256x256", "pedestrians"),
)


def main() -> None:
    """Run them in order; a run that fails is named, and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="runs whose name holds this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=48, help="two periods at least")
    parser.add_argument("--out", type=Path, default=Path("out/cpu"))
    arguments = parser.parse_args()
    results, failed = {}, []
    for run in {run.name: run for run in RUNS if arguments.only in run.name}.values():
        path = arguments.out / f"{run.name}.json"
        command = [sys.executable, "-m", "benchmarks.cpu", "--model", run.model]
        command += ["--size", run.size, "--clip", run.found, "--json", str(path.resolve())]
        frames = max(arguments.frames, 2 * run.period)
        command += ["--threads", str(arguments.threads), "--frames", str(frames)]
        command += ["--period", str(run.period), "--tune-drop", "0.5"]
        if subprocess.run(command, cwd=_ROOT).returncode:
            failed.append(run.name)
        else:
            results[run.name] = json.loads(path.read_text("utf-8"))
    summary = as_markdown(results)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "summary.md").write_text(summary + "\n", "utf-8")
    print(summary)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
