"""Checkpoints as other projects write them load into the same network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from resq_core.errors import CheckpointError, OptionError, UnknownModelError
from resq_core.models import build, convert, load_weights
from resq_core.models.key_names import detect, to_official
from tests.resq_core.models.foreign import (
    mmpose,
    mmpose_before_1,
    mmpose_wrapped,
    mmseg_ddrnet,
    mmseg_hrnet,
    network,
    without_bias,
)

PREPROCESSOR = {"data_preprocessor.mean": torch.ones(3), "data_preprocessor.std": torch.ones(3)}
SLIM_BIASES = ("conv1.0.bias", "conv1.3.bias")


def renamed(state: dict[str, Tensor], name: Callable[[str], str]) -> dict[str, Tensor]:
    return {name(key): value for key, value in state.items()}


def reload(net: nn.Module, content: object, folder: Path, arch: str, **options: Any) -> nn.Module:
    """The network that a file with this content gives, whose outputs are those of `net`."""
    path = folder / "w.pth"
    torch.save(content, path)
    with torch.device("meta"):
        loaded = build(arch, **options)
    loaded = loaded.to_empty(device="cpu").eval()
    load_weights(loaded, path)
    if arch != "stm":  # whose forward takes memories
        x = torch.linspace(-2, 2, 3 * 64 * 64).sin().view(1, 3, 64, 64)
        with torch.inference_mode():
            got, want = loaded(x), net(x)
        assert torch.equal(got, want[0] if isinstance(want, tuple) else want)
    want_state = net.state_dict()
    assert all(torch.equal(v, want_state[k]) for k, v in loaded.state_dict().items())
    return loaded


@pytest.fixture(scope="module")
def pose() -> nn.Module:
    return network("hrnet_w32_pose", num_joints=16)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        (mmpose, lambda state: {"meta": {"epoch": 210}, "state_dict": {**state, **PREPROCESSOR}}),
        (mmpose_before_1, lambda state: {"state_dict": state, "meta": {"CLASSES": None}}),
        (mmpose_wrapped, lambda state: {"model": state, "names": ["person"]}),
    ],
)
def test_mmpose(
    tmp_path: Path,
    pose: nn.Module,
    name: Callable[[str], str],
    wrap: Callable[[dict[str, Tensor]], object],
) -> None:
    content = wrap(renamed(pose.state_dict(), name))
    reload(pose, content, tmp_path, "hrnet_w32_pose", num_joints=16)


@pytest.mark.parametrize("arch", ["ddrnet23_slim", "ddrnet23"])
def test_mmseg_ddrnet_whose_auxiliary_head_is_not_wanted(tmp_path: Path, arch: str) -> None:
    net = network(arch, aux_head=True)
    state = renamed(without_bias(net, *SLIM_BIASES), mmseg_ddrnet)
    assert sum(key.startswith("decode_head.aux_") for key in state) == 13
    reload(net, {"state_dict": {**state, **PREPROCESSOR}, "message_hub": {}}, tmp_path, arch)


def test_mmseg_ddrnet_with_its_auxiliary_head(tmp_path: Path) -> None:
    net = network("ddrnet23_slim", num_classes=5, aux_head=True)
    state = renamed(without_bias(net, *SLIM_BIASES), mmseg_ddrnet)
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    loaded = build("ddrnet23_slim", num_classes=5, aux_head=True).eval()
    load_weights(loaded, tmp_path / "w.pth")
    x = torch.ones(1, 3, 32, 32)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(loaded(x), net(x), strict=True))


def test_mmseg_ddrnet_without_an_auxiliary_head(tmp_path: Path) -> None:
    net = network("ddrnet23_slim")
    state = renamed(without_bias(net, *SLIM_BIASES), mmseg_ddrnet)
    reload(net, state, tmp_path, "ddrnet23_slim")


def test_mmseg_hrnet(tmp_path: Path) -> None:
    net = network("hrnet_w18_small")
    state = renamed(without_bias(net, "last_layer.0.bias"), mmseg_hrnet)
    reload(net, {"meta": {}, "state_dict": state}, tmp_path, "hrnet_w18_small")


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_official_names(tmp_path: Path, prefix: str, wrapper: str | None) -> None:
    net = network("ddrnet23_slim", aux_head=True)
    state = {prefix + key: value for key, value in net.state_dict().items()}
    state["loss.criterion.weight"] = torch.ones(19)
    reload(net, {wrapper: state} if wrapper else state, tmp_path, "ddrnet23_slim")


def test_stm_as_published(tmp_path: Path) -> None:
    net = network("stm")
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    reload(net, state, tmp_path, "stm")


@pytest.mark.parametrize(
    ("manifest", "arch", "naming"),
    [
        ("mmpose_hrnet_w32_coco17", "hrnet_w32_pose", "mmpose"),
        ("mmseg_ddrnet23_slim", "ddrnet23_slim", "mmseg-ddrnet"),
        ("mmseg_ddrnet23", "ddrnet23", "mmseg-ddrnet"),
        ("mmseg_fcn_hr18s", "hrnet_w18_small", "mmseg-hrnet"),
    ],
)
def test_the_other_projects_own_key_lists(
    shared: Path, manifest: str, arch: str, naming: str
) -> None:
    kit = json.loads((shared / "golden" / "mm_manifests.json").read_text("utf-8"))
    rows = kit["manifests"][manifest]
    theirs = {
        key: torch.empty(shape, dtype=getattr(torch, kind), device="meta")
        for key, _, shape, kind in rows
    }
    got, found = to_official(theirs)
    assert found.name == naming
    assert list(found.no_bias) == kit["missing_official_keys"][manifest]
    assert list(got) == [official for _, official, _, _ in rows]
    with torch.device("meta"):
        options = {"aux_head": True} if arch.startswith("ddrnet") else {}
        wanted = build(arch, **options).state_dict()
    assert got.keys() | set(found.no_bias) == wanted.keys()
    assert all(got[k].shape == wanted[k].shape for k in got)


@pytest.mark.parametrize(
    ("keys", "naming"),
    [
        (["final_layer.weight", "stage4.2.x"], "official"),
        (["head.final_layer.weight"], "mmpose"),
        (["keypoint_head.final_layer.bias"], "mmpose"),
        (["decode_head.convs.0.conv.weight", "backbone.stage2.0.x"], "mmseg-hrnet"),
        (["decode_head.convs.0.conv.weight", "backbone.layer1.0.x"], "official"),
        (["backbone.stem.0.conv.weight"], "mmseg-ddrnet"),
        ([], "official"),
    ],
)
def test_the_naming_is_told_from_the_keys(keys: list[str], naming: str) -> None:
    assert detect(keys).name == naming


def test_two_keys_of_one_tensor(tmp_path: Path) -> None:
    keys = ("head.final_layer.weight", "keypoint_head.final_layer.weight")
    torch.save({key: torch.ones(1) for key in keys}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"two keys .* mean final_layer\.weight"):
        load_weights(nn.Conv2d(1, 1, 1), tmp_path / "w.pth")


def test_conversion_reads_the_number_of_joints(tmp_path: Path, pose: nn.Module) -> None:
    torch.save({"state_dict": renamed(pose.state_dict(), mmpose)}, tmp_path / "theirs.pth")
    done = convert(tmp_path / "theirs.pth", "hrnet_w32_pose", tmp_path / "new" / "w.safetensors")
    assert (done.options, done.naming, done.zeros) == ({"num_joints": 16}, "mmpose", ())
    with safe_open(done.path, "pt") as file:
        assert file.metadata()["num_joints"] == "16"
        assert file.metadata()["source_sha256"] == done.source_sha256
        assert set(file.keys()) == pose.state_dict().keys()
    with torch.device("meta"):
        loaded = build(done.arch, **done.options).to_empty(device="cpu")
    load_weights(loaded, done.path)
    got, want = loaded.state_dict(), pose.state_dict()
    assert all(torch.equal(got[key], want[key]) for key in want)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["w.safetensors"]


def test_conversion_of_half_a_network_names_its_zeros_and_keeps_a_wanted_head(
    tmp_path: Path,
) -> None:
    net = network("ddrnet23_slim", num_classes=3, aux_head=True)
    state = renamed(without_bias(net, *SLIM_BIASES), mmseg_ddrnet)
    torch.save(state, tmp_path / "theirs.pth")
    done = convert(tmp_path / "theirs.pth", "ddrnet23_slim", tmp_path / "a.safetensors")
    both = convert(
        tmp_path / "theirs.pth", "ddrnet23_slim", tmp_path / "b.safetensors", {"aux_head": True}
    )
    assert done.zeros == both.zeros == SLIM_BIASES
    assert done.options == {"num_classes": 3}
    load_weights(build("ddrnet23_slim", **both.options), both.path)


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("ddrnet39", {}, "its keys look like ddrnet23_slim"),
        ("ddrnet23", {}, r"conv1\.0\.weight \(32, .*; its keys look like ddrnet23_slim"),
        ("hrnet_w32_pose", {}, "missing: .* and .* more; unexpected: .* look like ddrnet23_slim"),
        ("stm", {}, "its keys look like ddrnet23_slim"),
        ("ddrnet23_slim", {"num_classes": 4}, r"final_layer\.conv2\.bias \(19,\) .* \(4,\)$"),
    ],
)
def test_a_file_of_another_network(
    tmp_path: Path, arch: str, options: dict[str, object], message: str
) -> None:
    torch.save(network("ddrnet23_slim").state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "w.pth", arch, tmp_path / "out.safetensors", options)
    assert not (tmp_path / "out.safetensors").exists()


def test_conversion_refuses_what_build_refuses(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(UnknownModelError, match="there are: ddrnet23"):
        convert(tmp_path / "w.pth", "ddrnet", tmp_path / "out.safetensors")
    with pytest.raises(OptionError, match="its options are: num_classes, aux_head"):
        convert(tmp_path / "w.pth", "ddrnet23", tmp_path / "out.safetensors", {"joints": 3})


def test_a_truncated_file(tmp_path: Path) -> None:
    torch.save(network("ddrnet23_slim").state_dict(), tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for length in (len(whole) // 2, len(whole) - 40, 100):
        (tmp_path / "w.pth").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
            convert(tmp_path / "w.pth", "ddrnet23_slim", tmp_path / "out.safetensors")
