"""`resq doctor`: what this machine offers, which backend serves, and whether it is right."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Column, Table

from resq_core.backends.extension import native_status
from resq_core.backends.machine import processor_name, usable_cores
from resq_core.selftest import TOLERANCE, self_test
from service.commands.shared import Json, print_json

__all__ = ["doctor"]


def doctor(
    as_json: Json = False,
) -> None:
    """Describe processor, torch and backend, and run a self-test of some seconds.

    Exit code 1: the backends disagree.
    """
    with Console(stderr=True).status("a small network on every backend"):
        found = _findings()
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found["self_test"]["agrees"]:
        raise typer.Exit(1)


def _findings() -> dict[str, Any]:
    status = native_status()
    tested = self_test()
    result = asdict(tested)
    del result["serving"]
    return {
        "processor": {
            "name": processor_name(),
            "features": list(status.features),
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(),
        },
        "torch": {
            "version": torch.__version__,
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "backend": {
            "name": tested.serving.backend.split()[0],
            "isa": tested.serving.isa,
            "reason": tested.serving.reason,
        },
        "self_test": result | {"tolerance": TOLERANCE, "agrees": tested.agrees},
    }


def _print(found: dict[str, Any]) -> None:
    processor, backend, test = found["processor"], found["backend"], found["self_test"]
    table = Table(Column(no_wrap=True), Column(overflow="fold"), show_header=False, box=None)
    table.add_row("processor", processor["name"])
    table.add_row("features", " ".join(processor["features"]) or "not known without the extension")
    table.add_row("cores", f"{processor['usable_cores']} usable of {processor['cores']}")
    table.add_row("torch", "{version}, {threads} threads, {capability}".format(**found["torch"]))
    if backend["reason"] is None:
        table.add_row("backend", f"native, {backend['isa']}")
    else:
        table.add_row("backend", f"reference; native cannot be used: {backend['reason']}")
    for name, times in test["times"].items():
        table.add_row(
            f"{name} frames",
            f"keyframe {times['keyframe_ms']:.2f} ms, residual {times['residual_ms']:.2f} ms",
        )
    table.add_row("self-test", _verdict(test))
    Console(highlight=False).print(table)


def _verdict(test: dict[str, Any]) -> str:
    if test["difference"] is None:
        return f"{test['frames']} frames on one backend; nothing to compare with"
    verdict = "passed" if test["agrees"] else "FAILED"
    return (
        f"{verdict}: outputs differ by at most {test['difference']:.1g} of the largest "
        f"(allowed {test['tolerance']:.0g}) over {test['frames']} frames"
    )
