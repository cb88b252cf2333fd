"""Charts of experiments: lines over something, or bars by name; as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

__all__ = ["Bars", "Line", "Lines", "draw_bars", "draw_lines"]

_COLOURS = ("#269498", "#c77700", "#7b4fa3", "#2f6fd0", "#b8325a", "#5f8f2e", "#8a6d3b", "#1a1e26")
_GREY = "#667080"
_LEVELS = (":", "-.", "--", "-")
_LEGEND_ROW = 0.22  # inches


@dataclass(frozen=True, slots=True)
class Line:
    """One line.

    Attributes:
        label: in the legend.
        points: x and y; where y is None there is a gap.
        notes: beside the points, or nothing.
        baseline: what the others are compared with: grey, dashed.
        joined: the points belong together; else they stand alone.
    """

    label: str
    points: Sequence[tuple[float, float | None]]
    notes: Sequence[str] = ()
    baseline: bool = False
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines over one axis.

    Attributes:
        title: above, or nothing.
        x, y: what the axes are, with units.
        lines: at least one.
        levels: horizontal lines by label.
        whole: x counts something; its ticks are whole numbers.
        log: of y.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    levels: Sequence[tuple[str, float]] = ()
    whole: bool = False
    log: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """A group of bars for each name.

    Attributes:
        y: what is measured, with its unit.
        names: of the groups, in order.
        bars: by label, a value for each name; None for no bar.
        zoom: begin the axis a little below the lowest bar, not at 0.
    """

    y: str
    names: Sequence[str]
    bars: Sequence[tuple[str, Sequence[float | None]]]
    zoom: bool = False


def draw_lines(charts: Sequence[Lines], path: Path) -> None:
    """Write charts side by side as PNG and as SVG, with one legend below each.

    Args:
        charts: one or more, of one quantity: they share y.
        path: of the PNG; the SVG lies beside it.
    """
    rows = max(len(chart.lines) + len(chart.levels) for chart in charts)
    width = 8 if len(charts) == 1 else 6.2 * len(charts)
    figure, axes = _figure(width, 3.9 + _LEGEND_ROW * -(-rows // 2), len(charts))
    for ax, chart in zip(axes, charts, strict=True):
        for (label, level), style in zip(chart.levels, cycle(_LEVELS), strict=False):
            ax.axhline(level, color=_GREY, lw=1, ls=style, label=label)
        colours = cycle(_COLOURS)
        for i, line in enumerate(chart.lines):
            _draw_line(ax, line, _GREY if line.baseline else next(colours), below=i % 2 == 1)
        ax.set(title=chart.title, xlabel=chart.x)
        ax.grid(color="#e3e6ea", lw=0.6)
        ax.margins(x=0.09)  # room for notes
        if chart.log:
            ax.set_yscale("log")
        if chart.whole:
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axes[0].set_ylabel(charts[0].y)
    _save(figure, path)


def _draw_line(ax: Any, line: Line, colour: str, below: bool) -> None:
    """One line; notes of every other one stand below, so that neighbours' do not collide."""
    x = [point[0] for point in line.points]
    y = [float("nan") if point[1] is None else point[1] for point in line.points]
    style = "x--" if line.baseline else "o-" if line.joined else "."
    ax.plot(x, y, style, ms=4.5, lw=1.3, color=colour, label=line.label)
    for note, place in zip(line.notes, zip(x, y, strict=True), strict=False):
        beside = (3, -10) if below else (3, 4)
        ax.annotate(
            note, place, xytext=beside, textcoords="offset points", fontsize=7, color=colour
        )


def draw_bars(chart: Bars, path: Path) -> None:
    """Write bars as PNG and as SVG.

    Args:
        chart: with at least one group and one bar.
        path: of the PNG; the SVG lies beside it.
    """
    figure, (ax,) = _figure(max(7.0, 0.22 * len(chart.names) * (1 + len(chart.bars))), 4.2, 1)
    width = 0.8 / len(chart.bars)
    values = [v for _, bars in chart.bars for v in bars if v is not None]
    for i, (label, bars) in enumerate(chart.bars):
        x = [group + (i - (len(chart.bars) - 1) / 2) * width for group in range(len(bars))]
        heights = [0.0 if v is None else v for v in bars]
        drawn = ax.bar(x, heights, width, label=label, color=_COLOURS[i % len(_COLOURS)])
        texts = ["" if v is None else f"{v:.1f}" for v in bars]
        ax.bar_label(drawn, texts, fontsize=6.5, padding=1, rotation=90 if width < 0.3 else 0)
    low, high = min(values, default=0.0), max(values, default=1.0)
    bottom = max(0.0, low - 0.5 * (high - low) - 1) if chart.zoom else 0.0
    ax.set_ylim(bottom, high + 0.14 * (high - bottom))  # room for the numbers
    ax.margins(x=0.02)
    many = len(chart.names) > 6
    ax.set_xticks(
        range(len(chart.names)),
        chart.names,
        rotation=35 if many else 0,
        ha="right" if many else "center",
    )
    ax.set_ylabel(chart.y)
    ax.legend(fontsize=8, ncols=len(chart.bars), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _save(figure, path)


def _figure(width: float, height: float, columns: int) -> tuple[Any, list[Any]]:
    # Figure without pyplot: no global state, no display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=True)[0])


def _save(figure: Any, path: Path) -> None:
    from matplotlib import rc_context

    figure.savefig(path)
    with rc_context({"svg.hashsalt": "resq"}):  # the same chart, the same file
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
