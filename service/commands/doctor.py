"""`resq doctor`: what this machine offers, which backend serves, and whether it is right."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table

from service.commands.shared import Device, Json, print_json

__all__ = ["doctor"]


def doctor(
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Describe processor, torch, device and backend, and run a self-test of some seconds.

    Exit code 1: the backends disagree.
    """
    from service.config import load_config

    place = load_config(device=device).device
    with Console(stderr=True).status("a small network on every backend"):
        found = _findings(place)
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found["self_test"]["agrees"]:
        raise typer.Exit(1)


def _findings(device: str) -> dict[str, Any]:
    import torch

    from resq_core.backends.extension import native_status
    from resq_core.backends.machine import processor_name, usable_cores
    from resq_core.selftest import self_test

    status = native_status()
    tested = self_test(device)
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
            "cuda": torch.version.cuda,
            "gpus": torch.cuda.device_count(),
        },
        "backend": {
            "name": tested.serving.backend.split()[0],
            "isa": tested.serving.isa,
            "device": device,
            "gpu": None if device == "cpu" else torch.cuda.get_device_name(device),
            "reason": tested.serving.reason,
        },
        "self_test": result | {"agrees": tested.agrees},
    }


def _print(found: dict[str, Any]) -> None:
    processor, backend, test = found["processor"], found["backend"], found["self_test"]
    table = Table(Column(no_wrap=True), Column(overflow="fold"), show_header=False, box=None)
    table.add_row("processor", processor["name"])
    table.add_row("features", " ".join(processor["features"]) or "not known without the extension")
    table.add_row("cores", f"{processor['usable_cores']} usable of {processor['cores']}")
    torch_words = "{version}, {threads} threads, {capability}".format(**found["torch"])
    table.add_row("torch", f"{torch_words}, {_gpus(**found['torch'])}")
    if backend["gpu"] is not None:
        table.add_row("device", f"{backend['device']}, {backend['gpu']}")
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


def _gpus(cuda: str | None, gpus: int, **_: Any) -> str:
    """What a device could be here, besides the CPU."""
    return "built without CUDA" if cuda is None else f"CUDA {cuda}, {gpus} GPUs"


def _verdict(test: dict[str, Any]) -> str:
    if test["difference"] is None:
        return f"{test['frames']} frames on one backend; nothing to compare with"
    verdict = "passed" if test["agrees"] else "FAILED"
    return (
        f"{verdict}: outputs differ by at most {test['difference']:.1g} of the largest "
        f"(allowed {test['tolerance']:.0g}) over {test['frames']} frames"
    )
