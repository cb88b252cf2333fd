"""Files that want to run code, to fill the memory, or that hold a training log."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resq_core.errors import CheckpointError
from resq_core.models import load_weights
from resq_core.models.checkpoint_files import read_tensors


class Call:
    """A pickle of this is a call of a function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __call__(self) -> None:  # pickle asks that what is called looks callable
        raise AssertionError("this was called")

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [os.system, subprocess.call, eval, Path.touch])
def test_no_function_is_called(tmp_path: Path, function: Any, zipped: bool) -> None:
    mark = tmp_path / "mark"
    argument: object = mark if function is Path.touch else f"touch {mark}"
    if function is eval:
        argument = f"open({str(mark)!r}, 'w')"
    content = {"weight": torch.ones(1), "state_dict": Call(function, argument)}
    path = tmp_path / "w.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"nothing is executed|cannot be read") as caught:
        load_weights(nn.Conv2d(1, 1, 1), path)
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)


def test_a_bare_pickle(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Call(os.system, f"touch {mark}"), 2))
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "w.pth")
    assert not mark.exists()


def test_getattr_is_not_the_real_one(tmp_path: Path) -> None:
    """A log may mention it, and gets nothing; what it gives cannot be called."""
    found = Call(getattr, OrderedDict, "fromkeys")
    torch.save({"state_dict": {"weight": torch.ones(1)}, "log": found}, tmp_path / "w.pth")
    assert list(read_tensors(tmp_path / "w.pth")) == ["weight"]
    torch.save({"weight": torch.ones(1), "log": found}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="something else: log"):
        read_tensors(tmp_path / "w.pth")
    called = {"state_dict": {"weight": torch.ones(1)}, "log": Call(found, [1])}
    torch.save(called, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(tmp_path / "w.pth")


def test_numbers_of_a_training_log_are_passed_over(tmp_path: Path) -> None:
    log = {"loss": np.float64(0.5), "steps": np.arange(3), "lr": np.ones(2, np.float32)}
    content = {"state_dict": OrderedDict(weight=torch.ones(2)), "meta": log, "message_hub": log}
    for zipped in (True, False):
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert torch.equal(read_tensors(tmp_path / "w.pth")["weight"], torch.ones(2))


def test_a_log_of_openmmlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its class is not installed here, nor is it when the file is read."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history, self._count_history = np.ones(3), np.ones(3, np.int64)
            self._statistics_methods = {"mean": self.mean}

        def mean(self) -> float:
            return 1.0

    name = "mmengine.logging.history_buffer"
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = name, "HistoryBuffer"
    module = ModuleType(name)
    module.__dict__["HistoryBuffer"] = HistoryBuffer
    with monkeypatch.context() as patch:
        for part in ("mmengine", "mmengine.logging"):
            patch.setitem(sys.modules, part, ModuleType(part))
        patch.setitem(sys.modules, name, module)
        hub = {"log_scalars": OrderedDict(loss=HistoryBuffer()), "runtime_info": {"iter": 3}}
        content = {"meta": {}, "state_dict": {"weight": torch.ones(2)}, "message_hub": hub}
        torch.save(content, tmp_path / "w.pth")
    assert b"history_buffer" in (tmp_path / "w.pth").read_bytes()
    assert list(read_tensors(tmp_path / "w.pth")) == ["weight"]


def test_an_archive_that_grows_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resq_core.models.checkpoint_files._MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data/0", bytes(2 << 20))
    assert (tmp_path / "w.pth").stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match="2097152 bytes; a checkpoint may have 1048576"):
        read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "value",
    [torch.ones(2, 2).to_sparse(), torch.ones(1, device="meta"), None, "text", 3],
    ids=["sparse", "meta", "none", "text", "number"],
)
def test_values_that_are_no_dense_tensors(tmp_path: Path, value: object) -> None:
    torch.save({"weight": torch.ones(1), "bias": value}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="something else: bias"):
        read_tensors(tmp_path / "w.pth")
