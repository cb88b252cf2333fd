"""Pictures of results: of comparisons, of time against active share, of soaks and of loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["draw", "draw_line", "draw_load", "draw_soak"]

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


def draw_soak(result: Mapping[str, Any], path: Path) -> None:
    """The result of `benchmarks.soak` as a PNG: memory, and counts of what the server holds."""
    pyplot = _pyplot()
    samples = result["samples"]
    minutes = [sample["seconds"] / 60 for sample in samples]
    figure, (memory, counts) = pyplot.subplots(
        2, 1, figsize=(9, 7), layout="constrained", sharex=True
    )
    memory.plot(minutes, [sample["rss"] / 1e6 for sample in samples], linewidth=1)
    memory.axvline(result["warm_after"] / 60, color="tab:gray", linestyle="--", label="warm")
    memory.set_ylabel("resident MB")
    memory.set_ylim(bottom=0)
    memory.legend(loc="lower right")
    memory.set_title(
        f"{result['starts']} streams, slope after warm-up {result['slope_mb_per_hour']:g} ± "
        f"{result['slope_error_mb_per_hour']:g} MB/h\n{result['machine']['cpu']}",
        fontsize="medium",
    )
    for name in ("descriptors", "threads", "children"):
        counts.plot(minutes, [sample[name] for sample in samples], linewidth=1, label=name)
    counts.set_xlabel("minutes")
    counts.set_ylim(bottom=0)
    counts.legend(loc="upper right")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_load(result: Mapping[str, Any], path: Path) -> None:
    """The result of `benchmarks.load` as a PNG: latency and results over the number of clients."""
    pyplot = _pyplot()
    rows = [row for row in [*result["steady"], result["overload"]] if row["latency_ms"]]
    clients = [row["clients"] for row in rows]
    figure, (latency, rate) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name in ("p50", "p95", "p99"):
        latency.plot(clients, [row["latency_ms"][name] for row in rows], "o-", label=name)
    latency.axhline(result["deadline_ms"], color="tab:gray", linestyle="--", label="deadline")
    latency.set_ylabel("ms from send to result")
    rate.plot(clients, [row["results_per_second"] for row in rows], "o-", label="results")
    rate.plot(clients, [result["fps"] * n for n in clients], "--", color="tab:gray", label="sent")
    rate.set_ylabel("per second, all clients")
    for axes in (latency, rate):
        axes.set_xlabel("clients; the last point is the overload")
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.suptitle(
        f"{result['clip']}, {result['sustained']} sustained at {result['fps']:g} fps, "
        f"{result['machine']['cpu']}"
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
