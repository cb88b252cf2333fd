from __future__ import annotations

import os
from pathlib import Path

import pytest

from resq_core.backends import machine
from resq_core.backends.machine import cgroup_cores, processor_name, usable_cores


@pytest.mark.parametrize(
    ("content", "cores"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None)]
)
def test_cgroup_v2(tmp_path: Path, content: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert cgroup_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2.0), ("-1", None)])
def test_cgroup_v1(tmp_path: Path, quota: str, cores: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_cores(tmp_path) == cores


def test_no_cgroup_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_cores(tmp_path) is None


def test_the_tighter_of_affinity_and_cgroup_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert usable_cores() == 8
    for content, expected in [("250000 100000", 3), ("1000 100000", 1), ("1600000 100000", 8)]:
        (tmp_path / "cpu.max").write_text(content)
        assert usable_cores() == expected


def test_the_processor_is_the_one_that_the_system_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU 3000\n")
    monkeypatch.setattr(machine, "_CPUINFO", info)
    assert processor_name() == "Some CPU 3000"
    info.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")  # as on many Arm machines
    assert processor_name()
