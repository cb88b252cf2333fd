"""Pictures of figures: a clip's bits frame by frame, and a tuned curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot_curve", "plot_frames"]


def plot_frames(figures: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG: GBOPs per frame beside the W8A8 baseline, and mean bits below.

    Args:
        figures: per frame: `is_anchor`, `mean_bits` and `bops` with frame, policy and w8a8.
        path: of the PNG.
    """
    # Figure without pyplot: no global state, no display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True)
    x = range(len(figures))
    spent = [f["bops"]["frame"] / 1e9 for f in figures]
    policy = [f["bops"]["policy"] / 1e9 for f in figures]
    top.stackplot(x, spent, policy, labels=["network", "policy"], colors=["#269498", "#c77700"])
    top.plot(x, [f["bops"]["w8a8"] / 1e9 for f in figures], "--", color="#667080", label="W8A8")
    anchors = [i for i, f in enumerate(figures) if f["is_anchor"]]
    top.plot(anchors, [0] * len(anchors), "|", color="#1a1e26", label="keyframe")
    top.set_ylabel("GBOPs per frame")
    top.set_ylim(bottom=0)
    top.legend(loc="center right", fontsize=8)
    bottom.plot(x, [f["mean_bits"] for f in figures], color="#269498")
    bottom.set_ylabel("mean activation bits")
    bottom.set_xlabel("frame")
    bottom.set_ylim(0, 8.4)
    figure.savefig(path)


def plot_curve(content: Mapping[str, Any], path: Path) -> None:
    """Write a PNG: what is given up against BOPs and against active pixels, a line per period.

    Args:
        content: as `resq tune --curve` writes it: `points`, `hold` and `best` with their figures,
            and what `drop_is`.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    lines: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for point in content["points"]:
        lines.setdefault((point["precision"], point["period"]), []).append(point)
    names = {"bops": "BOPs, share of W8A8", "active_fraction": "active pixels, share"}
    for ax, (name, title) in zip(axes, names.items(), strict=True):
        for (precision, period), line in lines.items():
            label = f"{precision}, T = {period}"
            ax.plot([p[name] for p in line], [p["drop"] for p in line], ".-", label=label)
        hold = content["hold"]
        ax.plot([p[name] for p in hold], [p["drop"] for p in hold], "x--k", label="hold")
        if content["best"] is not None:
            ax.plot(content["best"][name], content["best"]["drop"], "o", mfc="none", ms=12)
        ax.set_xlabel(title)
        ax.set_xlim(left=0)
    axes[0].set_ylabel(f"drop, points of {content['drop_is']}", fontsize=8)
    axes[1].legend(fontsize=7)
    figure.savefig(path)
