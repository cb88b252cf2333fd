"""One picture of a comparison: the mean of every runtime, and the frames of the main ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["draw"]

_FOLLOWED = ("torch_fp32", "onnxruntime_int8", "openvino_int8", "resq_dense", "resq")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = result["runtimes"]
    figure, (bars, lines) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    colours = ["tab:orange" if r["name"].startswith("resq") else "tab:gray" for r in rows]
    bars.barh([row["name"] for row in rows], [row["amortized_ms"] for row in rows], color=colours)
    bars.bar_label(bars.containers[0], fmt="%.1f", padding=3)
    bars.margins(x=0.12)
    bars.invert_yaxis()
    bars.set_xlabel("ms per frame, mean over whole periods")
    for row in rows:
        if row["name"] in _FOLLOWED:
            lines.plot(row["milliseconds"], label=row["name"], linewidth=1)
    lines.set_xlabel("frame")
    lines.set_ylabel("ms")
    lines.set_ylim(bottom=0)
    lines.legend()
    size = "x".join(map(str, result["size"]))
    figure.suptitle(
        f"{result['model']} {size}, clip {result['clip']}, {result['threads']} threads, "
        f"T = {result['period']}, {result['machine']['cpu']}"
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
