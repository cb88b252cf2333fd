"""The dashboard, the alerts and their page agree with each other and with the metrics."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from service.metrics import Metrics
from tests.deploy.monitoring import (
    ROOT,
    RULES,
    alerts,
    annotations,
    dashboard,
    names,
    queries,
    rules,
)
from tests.service.prometheus import needs_prometheus

PAGE = ROOT / "docs/monitoring.md"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
UNUSED = {
    "process_virtual_memory_bytes",  # mostly reserved by torch and never touched
    # what a frame costs, for `resq loadgen` and `resq plan`
    "resq_worker_cpu_seconds",
}
FOREIGN = {"ALERTS", "up"}  # Prometheus's own


def exported() -> dict[str, set[str]]:
    """The names of samples of every family that a server exports."""
    return {
        family.name: {family.name + suffix for suffix in SUFFIXES[family.type]}
        for family in Metrics().registry.collect()
    }


def asked() -> set[str]:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    conditions = [*annotations().values(), *(rule["expr"] for rule in rules())]
    everything = [*queries().values(), *conditions]
    return set.union(*(names(query) for query in everything)) - recorded - FOREIGN


def test_every_query_asks_for_metrics_that_exist() -> None:
    assert asked() <= set.union(*exported().values())


def test_every_metric_is_shown_or_left_out_on_purpose() -> None:
    shown = {family for family, samples in exported().items() if samples & asked()}
    assert set(exported()) - shown == UNUSED


def test_grafana_reads_every_word_of_the_dashboard() -> None:
    """Through the models of Grafana 11.6, which leave out what they do not know."""
    board = dashboard()
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    assert lost(board, again) == []


def lost(given: Any, read: Any, path: str = "") -> list[str]:
    """Where `read` lacks, or has otherwise, what was given."""
    if isinstance(given, dict) and isinstance(read, dict):
        found = [lost(value, read.get(key), f"{path}/{key}") for key, value in given.items()]
        return [where for places in found for where in places]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        pairs = enumerate(zip(given, read, strict=True))
        found = [lost(a, b, f"{path}/{i}") for i, (a, b) in pairs]
        return [where for places in found for where in places]
    return [] if given == read else [path]


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    cells = Counter(
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert max(cells.values()) == 1
    assert max(x for x, _ in cells) == 23


def test_panels_follow_the_variables() -> None:
    board = dashboard()
    variables = [v["name"] for v in board["templating"]["list"]]
    assert variables == ["datasource", "instance", "model"]
    for panel in board["panels"]:
        if panel["type"] == "row":
            continue
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            of_a_model = list(names(target["expr"].replace("$__rate_interval", "1m")))
            assert "$instance" in target["expr"] or of_a_model == ["ALERTS"], panel["title"]
            if any(family_has_model(name) for name in of_a_model):
                assert "$model" in target["expr"], panel["title"]


def family_has_model(name: str) -> bool:
    labels = {
        family + suffix: collector._labelnames
        for collector, families in Metrics().registry._collector_to_names.items()
        if hasattr(collector, "_labelnames")
        for family in families
        for suffix in ("", "_total", "_bucket", "_sum", "_count")
    }
    return "model" in labels.get(name, ())


def test_every_alert_says_what_to_do() -> None:
    headings = re.findall(r"^### (\w+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert headings == list(alerts())
    for name, alert in alerts().items():
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}
        assert alert["annotations"]["runbook"] == f"docs/monitoring.md#{name.lower()}"


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", str(RULES))
    promtool("check", "config", str(ROOT / "docker/prometheus/prometheus.yml"))
