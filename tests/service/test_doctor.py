from __future__ import annotations

import json
import sys

import pytest
import torch
from typer.testing import CliRunner

from resq_core import selftest
from resq_core.backends.extension import _load, native_status
from resq_core.model import QuantizedModel
from service.cli import app

pytestmark = pytest.mark.slow


def test_json_names_processor_torch_backend_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESQ_ISA", raising=False)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    status = native_status()
    assert found["backend"]["isa"] == status.isa
    assert found["backend"]["name"] == ("reference" if status.reason else "native")
    assert found["processor"]["name"]
    assert 1 <= found["processor"]["usable_cores"] <= found["processor"]["cores"]
    assert found["torch"]["version"] == torch.__version__
    assert found["self_test"]["agrees"]
    for backend in {"reference", found["backend"]["name"]}:
        assert found["self_test"]["times"][backend]["residual_ms"] > 0
        assert found["self_test"]["times"][backend]["keyframe_ms"] > 0


def test_without_the_extension_it_says_why_the_reference_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "resq_core.backends._native", None)  # type: ignore[arg-type]
    _load.cache_clear()
    try:
        done = CliRunner().invoke(app, ["doctor"])
    finally:
        _load.cache_clear()
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    assert "reference; native cannot be used: it was not built" in words


def test_backends_that_disagree_are_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_wrong_backend(frames: list[torch.Tensor], device: str) -> dict[str, QuantizedModel]:
        (right,) = list(real(frames, device).values())[:1]
        network = selftest._network()
        with torch.no_grad():
            network[-2].bias += 1.0  # type: ignore[index, union-attr, operator]
        wrong = selftest.quantize(network, "W8A8->W8A{0,4,8}", period=8)
        wrong.calibrate([frames], samples=4)
        return {"reference": right, "wrong": wrong}

    real = selftest._models
    monkeypatch.setattr(selftest, "_models", with_a_wrong_backend)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1, done.output
    assert "FAILED" in done.stdout
    assert "wrong frames" in done.stdout


def test_an_unusable_isa_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESQ_ISA", "mmx")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code != 0
    assert "RESQ_ISA is 'mmx'" in str(done.exception)
