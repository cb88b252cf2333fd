"""Every command of docs/cli.md and every program of docs/client.md, run against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = "http://127.0.0.1:8000"
NEEDS_URL = ("stream", "clips")


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / "docs" / name).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def shell(server: str, tmp_path: Path) -> dict[str, str]:
    """An environment in which `resq` is this tree's, and talks to the test's server."""
    program = tmp_path / "bin" / "resq"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom service.cli import main\n"
        f"if sys.argv[1] in {NEEDS_URL}:\n    sys.argv += ['--url', {server!r}]\nmain()\n"
    )
    program.chmod(0o755)
    (tmp_path / "home").mkdir()
    return os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path / "home"),
    }


@pytest.mark.slow
def test_every_command(server: str, shell: dict[str, str], tmp_path: Path) -> None:
    lines = [line for block in blocks("cli.md", "") for line in block.splitlines()]
    assert len(lines) >= 14
    name = ""
    for line in lines:
        # the shell that asks for completion is found among the parents of the process
        done = subprocess.run(
            ["bash", "-c", f"{line.replace('ID', name).replace(DEFAULT, server)}; exit $?"],
            capture_output=True,
            text=True,
            timeout=200,
            cwd=tmp_path,
            env=shell,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        if line.startswith("resq clips upload"):
            name = done.stdout.split()[0]
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert {"stream/annotated.mp4", "stream/results.ndjson", "annotated.mp4"} <= written
    assert any((tmp_path / "home").rglob("*resq*")), "completion was installed"


def test_every_program(server: str, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    programs = blocks("client.md", "python")
    assert len(programs) == 4
    for program in programs:
        here = program.replace("Client()", f"Client({server!r})").replace(DEFAULT, server)
        done = subprocess.run(
            [sys.executable, "-c", here],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, f"{program}\n{done.stderr}"
        assert done.stdout, program
    assert (tmp_path / "annotated.mp4").is_file()
