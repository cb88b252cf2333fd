from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from resq_core.errors import CheckpointError
from resq_core.models import build, load_weights


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)


class SmallWithAux(Small):
    def __init__(self) -> None:
        super().__init__()
        self.seghead_extra = nn.Conv2d(3, 1, 1)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same(module: nn.Module, want: dict[str, Tensor]) -> None:
    got = module.state_dict()
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_round_trip_with_and_without_a_prefix(tmp_path: Path, prefix: str, suffix: str) -> None:
    want = state(Small())
    content = {prefix + key: value for key, value in want.items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(content, path)
    else:
        save_file(content, path)
    module = Small()
    load_weights(module, path)
    assert_same(module, want)


@pytest.mark.parametrize("loss", ["loss.criterion.weight", "model.loss.criterion.weight"])
def test_the_training_loss_is_left_out(tmp_path: Path, loss: str) -> None:
    want = state(Small())
    content = {f"model.{key}": value for key, value in want.items()}
    save_file({**content, loss: torch.ones(3)}, tmp_path / "w.safetensors")
    module = Small()
    load_weights(module, tmp_path / "w.safetensors")
    assert_same(module, want)


def test_only_one_prefix_is_taken_off(tmp_path: Path) -> None:
    content = {f"module.model.{key}": value for key, value in state(Small()).items()}
    save_file(content, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected: model\."):
        load_weights(Small(), tmp_path / "w.safetensors")


def test_auxiliary_head_is_dropped_only_where_there_is_none(tmp_path: Path) -> None:
    want = state(SmallWithAux())
    save_file(want, tmp_path / "w.safetensors")
    without, with_aux = Small(), SmallWithAux()
    load_weights(without, tmp_path / "w.safetensors")
    assert_same(without, {k: v for k, v in want.items() if not k.startswith("seghead_extra.")})
    load_weights(with_aux, tmp_path / "w.safetensors")
    assert_same(with_aux, want)


def test_a_missing_auxiliary_head_is_an_error(tmp_path: Path) -> None:
    save_file(state(Small()), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: seghead_extra\.weight"):
        load_weights(SmallWithAux(), tmp_path / "w.safetensors")


def test_what_does_not_fit_is_named_and_the_module_unchanged(tmp_path: Path) -> None:
    content = state(Small())
    del content["norm.bias"]
    content["extra"] = torch.ones(1)
    content["conv.weight"] = torch.ones(3, 4, 1, 1)
    save_file(content, tmp_path / "w.safetensors")
    module = Small()
    before = state(module)
    with pytest.raises(CheckpointError) as caught:
        load_weights(module, tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "missing: norm.bias" in message
    assert "unexpected: extra" in message
    assert "conv.weight (3, 4, 1, 1) instead of (3, 2, 1, 1)" in message
    assert_same(module, before)


def test_a_long_list_of_keys_is_cut_short(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    with torch.device("meta"):
        net = build("ddrnet23_slim")
    with pytest.raises(CheckpointError, match=r"conv1\.0\.weight.*and \d+ more") as caught:
        load_weights(net, tmp_path / "w.safetensors")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    content = state(Small())
    content["norm.running_var"][1] = value
    save_file(content, tmp_path / "w.safetensors")
    module = Small()
    before = state(module)
    with pytest.raises(CheckpointError, match=r"NaN or infinity in norm\.running_var"):
        load_weights(module, tmp_path / "w.safetensors")
    assert_same(module, before)


def test_values_of_another_type_are_refused(tmp_path: Path) -> None:
    content = state(Small())
    content["conv.bias"] = torch.full((3,), 1e300, dtype=torch.float64)
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"conv\.bias float64 instead of float32"):
        load_weights(Small(), tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all, only text"])
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_weights(Small(), tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint file at"):
        load_weights(Small(), tmp_path / "absent.safetensors")


@pytest.mark.parametrize("content", [torch.ones(2), {"weight": 3}])
def test_torch_files_that_are_not_a_dictionary_of_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="tensors"):
        load_weights(Small(), tmp_path / "w.pth")


def test_a_torch_file_cannot_run_code(tmp_path: Path) -> None:
    torch.save(Small(), tmp_path / "w.pth")  # a pickled object, not a dictionary of tensors
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(Small(), tmp_path / "w.pth")


def test_the_shipped_weights_fit_with_and_without_the_auxiliary_head(shared: Path) -> None:
    path = shared / "weights" / "ddrnet23_slim_camvid11.safetensors"
    x = torch.zeros(1, 3, 40, 48)
    with_aux = build("ddrnet23_slim", num_classes=11, aux_head=True).eval()
    without = build("ddrnet23_slim", num_classes=11).eval()
    load_weights(with_aux, path)
    load_weights(without, path)
    with torch.inference_mode():
        assert torch.equal(with_aux(x)[0], without(x))
    with pytest.raises(CheckpointError, match=r"final_layer\.conv2\.weight .* instead of"):
        load_weights(build("ddrnet23_slim"), path)
