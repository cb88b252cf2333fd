"""The pure parts of the comparison: statistics, ratios, the threshold search, tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = [
    "INT8_PEERS",
    "Row",
    "as_markdown",
    "largest_passing",
    "percentile",
    "ratios",
    "straight_line",
    "timing",
]

Row = Mapping[str, Any]
"""One runtime's figures by name, as they stand in the JSON."""

INT8_PEERS = ("onnxruntime_int8", "openvino_int8")

_COLUMNS = ("run", "runtime", "keyframe ms", "residual ms", "amortized ms", "p99", "agreement")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank).

    Args:
        values: at least one.
        share: above 0, at most 1.
    """
    ordered = sorted(values)
    rank = -int(-share * len(ordered) // 1)  # ceiling
    return ordered[max(rank, 1) - 1]


def timing(
    milliseconds: Sequence[float], keyframes: Sequence[bool], threads: int
) -> dict[str, Any]:
    """Figures of one runtime over whole periods.

    Args:
        milliseconds: per frame.
        keyframes: whether each frame was dense; all True for runtimes that know one kind only.
        threads: that it computed with.
    """
    kinds: dict[str, list[float]] = {"keyframe_ms": [], "residual_ms": []}
    for spent, is_key in zip(milliseconds, keyframes, strict=True):
        kinds["keyframe_ms" if is_key else "residual_ms"].append(spent)
    amortized = statistics.mean(milliseconds)
    return {
        **{
            kind: {
                "median": statistics.median(values),
                "p99": percentile(values, 0.99),
                "frames": len(values),
            }
            for kind, values in kinds.items()
            if values
        },
        "amortized_ms": amortized,
        "frames_per_second_per_core": 1000 / amortized / threads,
    }


def ratios(rows: Sequence[Row]) -> dict[str, Any]:
    """How many times ours is faster; what was not measured is absent.

    best_int8: amortized ms of the faster int8 peer over that of `resq`; best_int8_name: which one.
    torch_fp32: the same for that runtime. keyframe_vs_openvino_int8: median ms of that runtime
    over the median ms of a keyframe of `resq`.
    """
    by_name = {row["name"]: row for row in rows}
    ours = by_name.get("resq")
    if ours is None:
        return {}
    found: dict[str, Any] = {}
    peers = [by_name[name] for name in INT8_PEERS if name in by_name]
    if peers:
        best = min(peers, key=lambda row: float(row["amortized_ms"]))
        found["best_int8"] = best["amortized_ms"] / ours["amortized_ms"]
        found["best_int8_name"] = best["name"]
    if "torch_fp32" in by_name:
        found["torch_fp32"] = by_name["torch_fp32"]["amortized_ms"] / ours["amortized_ms"]
    if "openvino_int8" in by_name:
        theirs = by_name["openvino_int8"]["keyframe_ms"]["median"]
        found["keyframe_vs_openvino_int8"] = theirs / ours["keyframe_ms"]["median"]
    return found


def largest_passing(candidates: Sequence[float], passes: Callable[[float], bool]) -> float | None:
    """The largest of ascending candidates that passes, by bisection; None where none does.

    What passes is taken to be an initial stretch: beyond a candidate that fails none is tried.
    """
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        if passes(candidates[middle]):
            low = middle + 1
        else:
            high = middle
    return candidates[low - 1] if low else None


def straight_line(active: Sequence[float], milliseconds: Sequence[float]) -> dict[str, float]:
    """The least-squares line through points of time against active share, and its R².

    Args:
        active: at least two different values.
        milliseconds: not all the same.
    """
    slope, intercept = statistics.linear_regression(active, milliseconds)
    r2 = statistics.correlation(active, milliseconds) ** 2
    return {"intercept_ms": intercept, "slope_ms": slope, "r2": r2}


def as_markdown(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Two tables in Markdown, of results by the name of their run: the ratios, every runtime."""
    lines = ["| run | ours over best int8 | which | over torch fp32 | keyframe | skipped |"]
    lines += ["|---" * 6 + "|"]
    for name, result in runs.items():
        found = result["ratios"]
        cells = [
            name,
            _number(found.get("best_int8")),
            found.get("best_int8_name", "–"),
            _number(found.get("torch_fp32")),
            _number(found.get("keyframe_vs_openvino_int8")),
            ", ".join(row["name"] for row in result["skipped"]) or "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    for name, result in runs.items():
        lines += [_line(name, row) for row in result["runtimes"]]
    return "\n".join(lines)


def _line(run: str, row: Row) -> str:
    worst = max(row[kind]["p99"] for kind in ("keyframe_ms", "residual_ms") if kind in row)
    cells = [
        run,
        row["name"],
        _number(row["keyframe_ms"]["median"], 1),
        _number(row.get("residual_ms", {}).get("median"), 1),
        _number(row["amortized_ms"], 1),
        _number(worst, 1),
        _number(row["agreement_fp32"], 4),
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
