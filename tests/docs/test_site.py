"""The documents build without a warning, and what they name exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from service.commands.experiment import experiment

ROOT = Path(__file__).resolve().parents[2]
PAPER = (ROOT / "docs" / "paper.md").read_text("utf-8")


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rest = (tmp_path / "site" / "reference" / "rest" / "index.html").read_text("utf-8")
    assert "/v1/clips/{name}/results" in rest
    python = (tmp_path / "site" / "reference" / "python" / "index.html").read_text("utf-8")
    assert "quantize" in python
    assert "Raises" in python


def test_the_table_of_the_paper_names_what_there_is() -> None:
    files = set(re.findall(r"`((?:resq_core|service|benchmarks)/[\w/]+\.py)`", PAPER))
    assert len(files) > 10
    for name in files:
        path = ROOT / "tests" / name if "/test_" in name else ROOT / name
        assert path.is_file(), name
    for name, tests in re.findall(
        r"`((?:resq_core|service)/[\w/]*test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)", PAPER
    ):
        text = (ROOT / "tests" / name).read_text("utf-8")
        for test in re.findall(r"`(test_\w+)`", tests):
            assert f"def {test}(" in text, (name, test)


def test_every_equation_table_and_figure_has_its_row() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", PAPER, re.M)
    numbers = [int(n) for row in rows for n in row.split(",")]
    equations, tables, figures = list(range(1, 12)), list(range(1, 7)), list(range(1, 14))
    assert sorted(numbers) == sorted([*equations, *tables, *figures])


def test_every_command_of_the_figures_is_one() -> None:
    """Parsed, not run: `tests/service/test_experiments.py` runs each on tiny pictures."""
    group = typer.main.get_command(experiment)
    pages = ("figures", "paper", "cli", "training")
    text = "".join((ROOT / "docs" / f"{page}.md").read_text("utf-8") for page in pages)
    found = re.findall(r"resq experiment ([a-z]+ [^`\n]+)", text)
    assert len(found) > 10
    for line in found:
        name, *arguments = shlex.split(line)
        command = group.get_command(group.make_context("experiment", [name]), name)
        assert command is not None, line
        command.make_context(name, arguments)
    named = {line.split()[0] for line in found}
    assert named | {"baselines"} >= set(group.commands)
