"""The command line as a user calls it: a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


def resq(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from service.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


def test_help_lists_the_commands() -> None:
    done = resq("--help")
    assert done.returncode == 0
    assert "bops" in done.stdout
    assert "eval" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "W8A8->W8A9"], "bits is 9; expected"),
        (["--precision", "W8A8->W8A4", "--period", "0"], "period T is 0"),
        (["--model", "nothing"], "there are: anything, person, street"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "clip_15hz").mkdir()
    done = resq("eval", "camvid", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert message in done.stderr


def test_serve_prints_what_is_in_force_and_where_it_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "resq.toml"
    file.write_text("port = 1\nperiod = 2\ncredits = 3\n", "utf-8")
    monkeypatch.setenv("RESQ_PERIOD", "20")
    done = resq("serve", "--config", str(file), "--port", "100", "--print-config")
    assert done.returncode == 0
    assert {"port": 100, "period": 20, "credits": 3}.items() <= tomllib.loads(done.stdout).items()
    lines = done.stdout.splitlines()
    assert "port = 100  # --port" in lines
    assert "period = 20  # RESQ_PERIOD" in lines
    assert f"credits = 3  # credits in {file}" in lines
    assert "max_streams = 8  # default" in lines


def test_serve_does_not_start_with_wrong_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "resq.toml"
    file.write_text("peroid = 8\n", "utf-8")
    monkeypatch.setenv("RESQ_CREDITS", "0")
    monkeypatch.setenv("RESQ_CONFIG", str(file))
    done = resq("serve", "--threads", "-1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert f"peroid in {file}: did you mean period?" in done.stderr
    assert "RESQ_CREDITS is '0': " in done.stderr
    assert "--threads is -1: " in done.stderr


@pytest.mark.slow
def test_eval_scores_all_baselines_on_the_same_frames(shared: Path) -> None:
    root = str(shared / "data" / "camvid")
    done = resq(
        "eval", "camvid", root, "--split", "clip_15hz", "--precision", "W8A8->W4A4", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    names = ("float", "frame", "hold", "resq")
    assert all(result[name]["frames"] == 50 for name in names)
    assert result["frame_precision"] == "W4A4"
    frame, hold, ours = (result[name]["miou"] for name in ("frame", "hold", "resq"))
    assert ours > frame + 0.045
    assert ours > hold + 0.02
    assert result["hold"]["mean_bits"] < result["resq"]["mean_bits"] < 8
    assert result["resq"]["bops"] < result["float"]["bops"] / 16
    assert len(result["float"]["by_distance"]) == 1
    near, _, far = result["hold"]["by_distance"]
    assert near == pytest.approx(result["resq"]["by_distance"][0])
    assert far < near
