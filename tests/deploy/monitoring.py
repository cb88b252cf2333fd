"""The dashboard and the rules as their files have them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

__all__ = [
    "DASHBOARD",
    "RULES",
    "alerts",
    "annotations",
    "dashboard",
    "groups",
    "names",
    "operands",
    "queries",
    "rules",
]

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "docker/prometheus/rules.yml"
DASHBOARD = ROOT / "docker/grafana/dashboards/resq.json"
_CONDITIONS = ("==", "!=", ">", "<", ">=", "<=", "and", "or", "unless")
# what Grafana puts in for its variables: all of them, over a window that a test's data fill
_VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$model": ".*"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return found


def queries() -> dict[str, str]:
    """Every query of the dashboard's panels by title and letter, as Grafana would send it."""
    return {
        f"{panel['title']} {target['refId']}": _filled(target["expr"])
        for panel in dashboard()["panels"]
        for target in panel.get("targets", [])
    }


def annotations() -> dict[str, str]:
    """The conditions that the dashboard marks in its panels, by name."""
    return {a["name"]: _filled(a["expr"]) for a in dashboard()["annotations"]["list"]}


def _filled(query: str) -> str:
    for variable, value in _VARIABLES.items():
        query = query.replace(variable, value)
    return query


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def _parts(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if getattr(node, name, None) is not None:
            yield from _parts(getattr(node, name))
    for argument in getattr(node, "args", ()):
        yield from _parts(argument)


def names(query: str) -> set[str]:
    """The series that a query asks for."""
    return {
        part.name for part in _parts(promql.parse(query)) if isinstance(part, promql.VectorSelector)
    }


def operands(query: str) -> set[str]:
    """What a condition compares: expressions that have a value whether or not it holds, and now
    instead of an hour ago."""
    return {re.sub(r" offset \w+", "", text) for text in _compared(promql.parse(query))}


def _compared(node: Any) -> Iterator[str]:
    if isinstance(node, promql.ParenExpr):
        yield from _compared(node.expr)
    elif isinstance(node, promql.BinaryExpr) and str(node.op) in _CONDITIONS:
        yield from _compared(node.lhs)
        yield from _compared(node.rhs)
    elif any(isinstance(part, promql.VectorSelector) for part in _parts(node)):
        yield str(node)
