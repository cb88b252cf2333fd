"""`resq models` as a user calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resq_core.models.catalogue import entries
from service.cli import main
from tests.resq_core.hub.published import ARCH, checkpoint, published
from tests.resq_core.hub.shelf import Shelf, serving

Resq = Callable[..., tuple[int, str, str]]


@pytest.fixture
def resq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resq:
    """Runs the command in this process: its exit status, standard output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["resq", "models", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int | None)
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """A server with weights, which are the catalogue's only entry."""
    monkeypatch.setenv("RESQ_CACHE", str(tmp_path / "cache"))
    with serving(Shelf(checkpoint())) as running:
        monkeypatch.setattr(
            "resq_core.models.catalogue.entry", lambda name: published(running, non_commercial=True)
        )
        yield running


def test_list(resq: Resq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    status, out, _ = resq("list")
    assert status == 0
    assert all(entry.name in out for entry in entries())
    assert "non-commercial" in out
    listed = json.loads(resq("list", "--json")[1])
    assert [entry["name"] for entry in listed] == [entry.name for entry in entries()]


def test_info(resq: Resq) -> None:
    status, out, _ = resq("info", "stm")
    assert status == 0
    assert "CC BY-NC-SA 4.0" in out
    info = json.loads(resq("info", "stm", "--json")[1])
    assert info["non_commercial"] is True
    assert info["preprocessing"]["in_network"] is True


@pytest.mark.parametrize("command", ["info", "pull"])
def test_an_unknown_name_is_one_line(resq: Resq, command: str) -> None:
    status, out, errors = resq(command, "nothing")
    assert (status, out) == (2, "")
    assert errors.startswith("error: no published weights are called 'nothing'; there are: ")
    assert errors.count("\n") == 1


def test_pull_asks_for_the_licence_and_then_prints_the_file(
    resq: Resq, shelf: Shelf, tmp_path: Path
) -> None:
    status, out, errors = resq("pull", "small")
    assert (status, out, shelf.asked) == (2, "", [])
    assert "non-commercial use only" in errors
    assert "expected --accept-licence" in errors
    status, out, errors = resq("pull", "small", "--accept-licence")
    assert status == 0
    assert out == f"{tmp_path / 'cache' / 'checkpoints' / 'small.safetensors'}\n"
    assert "Cityscapes" in errors
    result = json.loads(resq("pull", "small", "--accept-licence", "--json")[1])
    assert result["weights"] == out.strip()
    assert (result["arch"], result["checksum"], len(result["sha256"])) == (ARCH, "matches", 64)


def test_pull_of_more_than_wanted(resq: Resq, shelf: Shelf) -> None:
    status, _, errors = resq("pull", "small", "--accept-licence", "--max-mib", "1")
    assert status == 2
    assert "the limit is 1048576" in errors
    assert "Traceback" not in errors


def test_import(resq: Resq, tmp_path: Path) -> None:
    (tmp_path / "theirs.pth").write_bytes(checkpoint())
    status, out, _ = resq("import", str(tmp_path / "theirs.pth"), "--arch", ARCH)
    assert status == 0
    assert "num_classes=19" in out
    assert "mmseg-hrnet names; zeros for last_layer.0.bias" in out
    status, _, errors = resq("import", str(tmp_path / "theirs.pth"), "--arch", ARCH)
    assert status == 2
    assert "is there already; expected --out" in errors
    new = tmp_path / "new.safetensors"
    arguments = ["--arch", ARCH, "--out", str(new), "--option", "num_classes=19", "--json"]
    result = json.loads(resq("import", str(tmp_path / "theirs.safetensors"), *arguments)[1])
    assert result["naming"] == "official"
    assert result["path"] == str(new)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "nothing"], "no network is called 'nothing'"),
        (["--arch", "stm"], f"its keys look like {ARCH}"),
        (["--arch", ARCH, "--option", "num_classes=3"], "instead of (3,"),
        (["--arch", ARCH, "--option", "num_classes=many"], "num_classes is 'many'"),
        (["--arch", ARCH, "--option", "classes"], "expected NAME=VALUE"),
        (["--arch", ARCH, "--option", "aux_head=true"], "no option aux_head"),
    ],
)
def test_import_mistakes_are_one_line(
    resq: Resq, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "theirs.pth").write_bytes(checkpoint())
    status, out, errors = resq("import", str(tmp_path / "theirs.pth"), *arguments)
    assert (status, out) == (2, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pth"]


def test_import_of_nothing_and_onto_itself(resq: Resq, tmp_path: Path) -> None:
    assert "no checkpoint file" in resq("import", str(tmp_path / "no.pth"), "--arch", ARCH)[2]
    path = tmp_path / "w.pth"
    path.write_bytes(checkpoint())
    errors = resq("import", str(path), "--arch", ARCH, "--out", str(path))[2]
    assert "the checkpoint itself" in errors
