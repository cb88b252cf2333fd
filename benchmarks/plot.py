"""Pictures of results: a comparison's, and that of time against active share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["draw", "draw_line"]

_FOLLOWED = ("torch_fp32", "onnxruntime_int8", "openvino_int8", "resq_dense", "resq")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """A comparison as a PNG: the mean of every runtime, and the frames of the main ones."""
    pyplot = _pyplot()
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


def draw_line(result: Mapping[str, Any], path: Path) -> None:
    """The result of `benchmarks.linear` as a PNG: points, the line through them, a dense frame."""
    pyplot = _pyplot()
    line = result["line"]
    active = [100 * point["active_fraction"] for point in result["points"]]
    ends = [min(active), max(active)]
    fitted = [line["intercept_ms"] + line["slope_ms"] * end / 100 for end in ends]
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    spent = [point["residual_ms"] for point in result["points"]]
    axes.plot(active, spent, "o", color="tab:orange", label="residual frame, median")
    axes.plot(ends, fitted, color="tab:orange", linewidth=1, label=f"line, R² = {line['r2']:.4f}")
    axes.axhline(result["dense_ms"], color="tab:gray", linestyle="--", label="dense W8A8 frame")
    axes.set_xlabel("active outputs, % of MACs")
    axes.set_ylabel("ms")
    axes.set_xlim(-2, 102)
    axes.set_ylim(bottom=0)
    axes.legend()
    size = "x".join(map(str, result["size"]))
    axes.set_title(
        f"{result['model']} {size}, threads: {result['threads']}, {result['backend']}\n"
        f"{result['machine']['cpu']}",
        fontsize="medium",
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
