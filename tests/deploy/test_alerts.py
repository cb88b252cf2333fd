"""Every alert fires when it should, says it in words, and is silent on a healthy server."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.monitoring import RULES, alerts, groups
from tests.service.prometheus import needs_prometheus

pytestmark = needs_prometheus

SERVER = {"job": "resq", "instance": "wall:8000"}
STREET = SERVER | {"model": "street"}


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """One sample a minute in promtool's notation: `0+5x10` is 0, 5, …, 50."""
    written = ", ".join(f'{key}="{value}"' for key, value in (SERVER | labels).items())
    return {"series": f"{name}{{{written}}}", "values": values}


def of_street(name: str, values: str, **labels: str) -> dict[str, str]:
    return series(name, values, model="street", **labels)


def bops(spent: str, of: str) -> list[dict[str, str]]:
    return [
        of_street("resq_bops_total", spent, frame_type="residual"),
        of_street("resq_policy_bops_total", "0+0x9999"),
        of_street("resq_bops_baseline_total", of),
    ]


def received(values: str) -> dict[str, str]:
    return of_street("resq_frames_total", values, stage="received")


@dataclass(frozen=True)
class Case:
    """What makes an alert fire: silent until `after` minutes less one, firing at `after`."""

    alert: str
    given: list[dict[str, str]]
    after: int
    summary: str
    description: str = ""
    labels: dict[str, str] = field(default_factory=lambda: STREET)


CASES = [
    Case("ResqDown", [series("up", "1 0x9")], 2, "wall:8000 does not answer", labels=SERVER),
    Case(
        "ResqNotReady",
        [series("resq_ready", "1 0x9")],
        3,
        "wall:8000 runs and admits nobody",
        labels=SERVER,
    ),
    Case(
        "ResqRestarting",
        [series("process_start_time_seconds", "0 60 120 180x9")],
        3,
        "wall:8000 started 3 times in 15 minutes",
        labels=SERVER,
    ),
    Case(
        "ResqMemoryHigh",
        [series("process_resident_memory_bytes", f"0 {int(3.5 * 2**30)}x9")],
        6,
        "wall:8000 holds 3.5GiB",
        labels=SERVER,
    ),
    Case(
        "ResqFilesHigh",
        [series("process_open_fds", "10 900x9"), series("process_max_fds", "1000x10")],
        6,
        "wall:8000 has 90% of its file descriptors open",
        labels=SERVER,
    ),
    Case(
        "ResqDeadlinesMissed",
        [
            of_street("resq_deadline_ratio_bucket", "0+0x20", le="1"),
            of_street("resq_deadline_ratio_bucket", "0+60x20", le="2"),
            of_street("resq_deadline_ratio_bucket", "0+60x20", le="+Inf"),
        ],
        6,
        "street: results come after their deadline",
        "The 99th percentile of a result's age is 199% of its stream's deadline.",
    ),
    Case(
        "ResqDeadlineDrops",
        [
            of_street("resq_frames_dropped_total", "0+60x20", reason="deadline"),
            received("0+600x20"),
        ],
        6,
        "street: 10% of the frames are dropped for their deadline",
    ),
    Case(
        "ResqSlow",
        [
            of_street("resq_e2e_latency_seconds_bucket", "0+0x20", le="2"),
            of_street("resq_e2e_latency_seconds_bucket", "0+60x20", le="3"),
            of_street("resq_e2e_latency_seconds_bucket", "0+60x20", le="+Inf"),
        ],
        11,
        "street: the 99th percentile of latency is 2.99s",
    ),
    Case(
        "ResqDropping",
        [
            of_street("resq_frames_dropped_total", "0+300x20", reason="superseded"),
            received("0+600x20"),
        ],
        11,
        "street: 50% of the frames get no result",
    ),
    Case(
        "ResqClosingByError",
        [series("resq_ws_closes_total", "0 4x20", code="1011")],
        1,
        "4 streams in 10 minutes closed with 1011",
        labels=SERVER | {"code": "1011"},
    ),
    Case(
        "ResqNoSaving",
        bops("0+98x30", of="0+100x30"),
        16,
        "street saves 2% of the bit operations of W8A8",
    ),
    Case(
        "ResqSavingCollapsed",
        bops("0+20x300 6069+69x60", of="0+100x361"),
        320,
        "street saves less than half of what it saved over the last day",
        "It is 31% of the bit operations of W8A8 now.",
    ),
    Case(
        "ResqRefusing",
        [series("resq_admission_rejects_total", "0+6x20", reason="capacity")],
        6,
        "wall:8000 refuses streams (capacity)",
        "30 in 5 minutes: there is no place, or no time of the workers, for them.",
        labels=SERVER | {"reason": "capacity"},
    ),
    Case(
        "ResqKeysRefused",
        [series("resq_admission_rejects_total", "0+60x20", reason="bad_key")],
        6,
        "wall:8000 refuses callers (bad_key)",
        "300 in 5 minutes: a client with an old key, or somebody who tries.",
        labels=SERVER | {"reason": "bad_key"},
    ),
    Case(
        "ResqCapacityExhausted",
        [
            series("resq_load_reserved", "0 1.56x20"),
            series("resq_load_measured", "0x21"),
            series("resq_capacity_workers", "1.6x21"),
        ],
        11,
        "wall:8000: 97.5% of the capacity for streams is taken",
        labels=SERVER,
    ),
    Case(
        "ResqDegraded",
        [series("resq_degradation_level", "0 2x20")],
        11,
        "wall:8000 has degraded its declared streams to level 2",
        labels=SERVER,
    ),
    Case(
        "ResqStateLeaked",
        [
            of_street("resq_cache_bytes", "0 2097152x20"),
            of_street("resq_streams_active", "0x21"),
        ],
        11,
        "wall:8000 holds 2MiB of state without a stream",
        labels=SERVER,
    ),
    Case(
        "ResqStateGrowing",
        [
            of_street("resq_cache_bytes", "1048576x60 4194304x120"),
            of_street("resq_streams_active", "1x180"),
        ],
        91,
        "wall:8000: the state of a stream doubled within an hour",
        "It is 4MiB a stream now. It depends on model and picture size and should stay as it is.",
        labels=SERVER,
    ),
    Case(
        "ResqClipsStuck",
        [
            series("resq_clip_jobs", "0 3x200", state="queued"),
            series("resq_clip_jobs", "7x201", state="done"),
        ],
        61,
        "wall:8000: no clip was finished for an hour, and 3 wait",
        labels=SERVER,
    ),
    Case(
        "ResqClipsFailing",
        [series("resq_clip_jobs", "0x15 3x20", state="failed")],
        16,
        "wall:8000: clips fail",
        "3 more within 15 minutes.",
        labels=SERVER | {"state": "failed"},
    ),
]


def promtool(folder: Path, tests: list[dict[str, Any]]) -> str:
    """What `promtool test rules` complains of."""
    path = folder / "tests.yml"
    order = [group["name"] for group in groups()]  # what is recorded comes first
    asked = {"rule_files": [str(RULES)], "group_eval_order": order, "tests": tests}
    path.write_text(json.dumps(asked))  # JSON is YAML
    command = ["promtool", "test", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_alert_has_its_case() -> None:
    assert [case.alert for case in CASES] == list(alerts())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_it_fires_in_time_and_says_why(case: Case, tmp_path: Path) -> None:
    alert = alerts()[case.alert]
    expected = {
        "exp_labels": case.labels | alert["labels"],
        "exp_annotations": alert["annotations"]
        | {"summary": case.summary}
        | ({"description": case.description} if case.description else {}),
    }
    checks = [
        {"eval_time": f"{case.after - 1}m", "alertname": case.alert, "exp_alerts": []},
        {"eval_time": f"{case.after}m", "alertname": case.alert, "exp_alerts": [expected]},
    ]
    test = {"interval": "1m", "input_series": case.given, "alert_rule_test": checks}
    assert promtool(tmp_path, [test]) == ""


def test_none_fires_on_a_healthy_server(tmp_path: Path) -> None:
    minutes = 24 * 60
    healthy = [
        series("up", f"1x{minutes}"),
        series("resq_ready", f"1x{minutes}"),
        series("process_start_time_seconds", f"1x{minutes}"),
        series("process_resident_memory_bytes", f"700000000x{minutes}"),
        series("process_open_fds", f"40x{minutes}"),
        series("process_max_fds", f"65536x{minutes}"),
        *bops(f"0+30x{minutes}", of=f"0+100x{minutes}"),
        received(f"0+600x{minutes}"),
        of_street("resq_frames_dropped_total", f"0+6x{minutes}", reason="superseded"),
        of_street("resq_frames_dropped_total", f"0+6x{minutes}", reason="deadline"),
        of_street("resq_deadline_ratio_bucket", f"0+600x{minutes}", le="0.5"),
        of_street("resq_deadline_ratio_bucket", f"0+600x{minutes}", le="+Inf"),
        of_street("resq_e2e_latency_seconds_bucket", f"0+600x{minutes}", le="0.1"),
        of_street("resq_e2e_latency_seconds_bucket", f"0+600x{minutes}", le="+Inf"),
        of_street("resq_cache_bytes", f"22000000x{minutes}"),
        of_street("resq_streams_active", f"1x{minutes}"),
        series("resq_ws_closes_total", f"0+1x{minutes}", code="1000"),
        series("resq_admission_rejects_total", f"0+0.1x{minutes}", reason="capacity"),
        series("resq_load_reserved", f"0.8x{minutes}"),
        series("resq_load_measured", f"0.7x{minutes}"),
        series("resq_capacity_workers", f"1.6x{minutes}"),
        series("resq_degradation_level", f"0x{minutes}"),
        series("resq_clip_jobs", f"1x{minutes}", state="running"),
        series("resq_clip_jobs", f"0+1x{minutes}", state="done"),
        series("resq_clip_jobs", f"0x{minutes}", state="failed"),
    ]
    checks = [
        {"eval_time": f"{time}m", "alertname": name, "exp_alerts": []}
        for name in alerts()
        for time in (10, 100, minutes)
    ]
    test = {"interval": "1m", "input_series": healthy, "alert_rule_test": checks}
    assert promtool(tmp_path, [test]) == ""
