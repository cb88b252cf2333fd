"""Completion and `--help` answer while somebody waits for a key: they import no torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# whatever the command line does, the last line says what it has imported of this
SCRIPT = """
import atexit, sys
sys.argv[0], slow = "resq", {"torch", "numpy", "av"}
atexit.register(lambda: print("imported:", *slow.intersection(sys.modules)))
from service.cli import main
main()
"""


def answer(*arguments: str, **environment: str) -> tuple[str, list[str]]:
    """What `resq` printed, and which slow packages it imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=os.environ | {"COLUMNS": "120"} | environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    printed, _, imported = done.stdout.rpartition("imported:")
    return printed, imported.split()


def completed(typed: str) -> list[str]:
    """What bash offers after `typed`; a TAB imports nothing that is slow."""
    words = typed.split(" ")
    printed, imported = answer(
        _RESQ_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1)
    )
    assert not imported, typed
    return printed.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("resq ", {"run", "serve", "clips", "world", "doctor"}),
        ("resq tune --p", {"--precision", "--periods"}),
        ("resq run --model st", {"street"}),
        ("resq eval --backend n", {"native"}),
        ("resq clips ", {"upload", "delete"}),
    ],
)
def test_completion_offers_what_there_is_without_torch(typed: str, offered: set[str]) -> None:
    assert offered <= set(completed(typed))


def test_precisions_complete_as_the_cards_have_them() -> None:
    assert "W8A8->W8A{0,4,8}" in completed("resq stream x --precision W8A8->W8A")


@pytest.mark.parametrize("arguments", [(), ("calibrate",), ("clips", "upload"), ("keys", "add")])
def test_help_imports_no_torch(arguments: tuple[str, ...]) -> None:
    """Of one command as of all: the command line imports every command's module."""
    printed, imported = answer(*arguments, "--help")
    assert "Usage:" in printed
    assert not imported
