"""The dashboard and the rules as their files have them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

__all__ = ["DASHBOARD", "RULES", "alerts", "dashboard", "names", "queries", "rules"]

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "docker/prometheus/rules.yml"
DASHBOARD = ROOT / "docker/grafana/dashboards/resq.json"
_COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
# what Grafana puts in for its variables: all of them, over a window that a test's data fill
_VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$model": ".*"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return found


def queries() -> dict[str, str]:
    """Every query of the dashboard by panel and letter, as Grafana would send it."""
    board = dashboard()
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", [])
    }
    found |= {a["name"]: a["expr"] for a in board["annotations"]["list"]}
    for variable, value in _VARIABLES.items():
        found = {name: query.replace(variable, value) for name, query in found.items()}
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


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
