"""The HRNet family against the official implementation's recorded outputs, and properties."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from resq_core.errors import OptionError
from resq_core.models import build
from resq_core.models.hrnet import HRNetPlan, PoseHRNet, SegmentationHRNet
from tests.resq_core.models.golden import (
    assert_captured,
    assert_golden,
    conv_rows,
    fill,
    golden,
    manifest_of,
    normal,
)

CASES = [
    ("hrnet_w32_pose", "mpii16_256x256", {"num_joints": 16}),
    ("hrnet_w18_small", "128x256", {}),
]
POSE = ("hrnet_w32_pose", "hrnet_w48_pose")
SEGMENTATION = ("hrnet_w18_small", "hrnet_w18_small_v1", "hrnet_w18", "hrnet_w48")
NARROW = HRNetPlan(4, ((1, 1), (2, 1), (1, 2)), stem_width=8, stem_blocks=1)


@pytest.mark.parametrize(("name", "case", "options"), CASES)
def test_outputs_and_taps_are_the_official_ones(
    shared: Path, name: str, case: str, options: dict[str, int]
) -> None:
    want = golden(shared, name)["cases"][case]["B"]
    net = build(name, **options).eval()
    assert fill(net) == want["fill_sha256"]
    taps: dict[str, list[Tensor]] = {}
    for tap in want["taps"]:
        net.get_submodule(tap).register_forward_hook(
            lambda _m, _i, out, tap=tap: taps.__setitem__(
                tap, out if isinstance(out, list) else [out]
            )
        )
    with torch.inference_mode():
        output = net(normal("input", tuple(want["input_shape"])))
    for tap, expected in want["taps"].items():
        for got, record in zip(taps[tap], expected, strict=True):
            assert_golden(got, record, tap)
    (record,) = want["outputs"].values()
    assert_golden(output, record, "output")


def test_every_golden_case_is_tested(shared: Path) -> None:
    recorded = {(name, case) for name, *_ in CASES for case in golden(shared, name)["cases"]}
    assert recorded == {(name, case) for name, case, _ in CASES}


def test_keys_shapes_types_and_order_of_segmentation(shared: Path) -> None:
    with torch.device("meta"):
        state = build("hrnet_w18_small").state_dict()
    assert manifest_of(state) == golden(shared, "hrnet_w18_small")["state_dict_manifest"]


@pytest.mark.parametrize("joints", [17, 16, 15, 1, 1000])
def test_keys_shapes_types_and_order_of_pose(shared: Path, joints: int) -> None:
    manifest = golden(shared, "hrnet_w32_pose")["state_dict_manifest"]
    manifest[-2:] = [
        ["final_layer.weight", [joints, 32, 1, 1], "float32"],
        ["final_layer.bias", [joints], "float32"],
    ]
    with torch.device("meta"):
        state = build("hrnet_w32_pose", num_joints=joints).state_dict()
    assert manifest_of(state) == manifest


@pytest.mark.parametrize("name", ["hrnet_w32_pose", "hrnet_w18_small", "hrnet_w18_small_v1"])
def test_multiply_adds_of_every_layer(shared: Path, name: str) -> None:
    want = json.loads((shared / "golden" / "macs.json").read_text())[name]
    with torch.device("meta"):
        options = {"num_joints": 15} if name in POSE else {}  # the kit counts JHMDB's joints
        net = build(name, **options).eval()
        rows = conv_rows(net, torch.empty(want["input"]))
    assert rows == [row[:4] for row in want["layers"]]
    assert sum(row[1] for row in rows) == want["macs_all_convs"]
    assert sum(p.numel() for p in net.parameters()) == want["params"]


def test_multiply_adds_of_an_upright_crop(shared: Path) -> None:
    want = json.loads((shared / "golden" / "macs.json").read_text())["hrnet_w32_pose"]
    with torch.device("meta"):
        net = build("hrnet_w32_pose", num_joints=15).eval()
        rows = conv_rows(net, torch.empty(1, 3, 256, 192))
    assert sum(row[1] for row in rows) == want["other_inputs"]["256x192"]


@pytest.mark.parametrize("name", [*POSE, *SEGMENTATION])
def test_every_member_gives_a_quarter_of_the_input(name: str) -> None:
    option = "num_joints" if name in POSE else "num_classes"
    with torch.device("meta"):
        output = build(name, **{option: 5}).eval()(torch.empty(2, 3, 64, 96))
    assert output.shape == (2, 5, 16, 24)


def test_wide_ones_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        counts = {
            name: sum(p.numel() for p in build(name).parameters()) / 1e6
            for name in ("hrnet_w48_pose", "hrnet_w48", "hrnet_w18")
        }
    assert counts == pytest.approx(
        {"hrnet_w48_pose": 63.6, "hrnet_w48": 65.8, "hrnet_w18": 9.6}, abs=0.1
    )


@pytest.mark.parametrize("size", [(1, 1), (33, 95), (90, 120), (100, 60), (128, 64)])
def test_segmentation_takes_any_size(size: tuple[int, int]) -> None:
    net = build("hrnet_w18_small").eval()
    fill(net)
    with torch.inference_mode():
        logits = net(normal("sizes", (1, 3, *size)))
    assert logits.shape == (1, 19, -(-size[0] // 4), -(-size[1] // 4))
    assert logits.isfinite().all()


def test_segmentation_resizes_to_the_size_of_the_finer_branch() -> None:
    net = SegmentationHRNet(NARROW, 3).eval()
    fill(net)
    x = normal("odd", (1, 3, 33, 95))
    seen: list[Tensor] = []
    net.last_layer.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        net(x)
        branches = net.features(x)
    assert [tuple(b.shape[2:]) for b in branches] == [(9, 24), (5, 12), (3, 6), (2, 3)]
    resized = [
        nn.functional.interpolate(b, size=(9, 24), mode="bilinear", align_corners=False)
        for b in branches
    ]
    torch.testing.assert_close(seen[0], torch.cat(resized, 1))


def test_pose_repeats_pixels_and_segmentation_blends_them() -> None:
    plans = [HRNetPlan(4, ((1, 1),), 8, 1, upsampling=u) for u in ("nearest", "bilinear")]
    nearest, bilinear = (PoseHRNet(plan, 2).eval() for plan in plans)
    fill(nearest)
    fill(bilinear)
    x = normal("upsampling", (1, 3, 32, 32))
    fuse = nearest.get_submodule("stage2.0.fuse_layers.0.1")
    sums: list[Tensor] = []
    fuse.register_forward_hook(lambda _m, _i, out: sums.append(out))
    with torch.inference_mode():
        different = not torch.equal(nearest(x), bilinear(x))
    assert different
    doubled = sums[0].repeat_interleave(2, 2).repeat_interleave(2, 3)
    resized = nn.functional.interpolate(sums[0], size=(8, 8), mode="nearest")
    assert torch.equal(resized, doubled)


def test_a_plan_of_bottlenecks() -> None:
    plan = HRNetPlan(4, ((1, 2), (1, 1)), 8, 1, block="bottleneck")
    net = PoseHRNet(plan, 3).eval()
    assert net.final_layer.weight.shape == (3, 16, 1, 1)
    assert net.get_submodule("stage3.0.branches.2.0.conv2").weight.shape == (16, 16, 3, 3)
    with torch.inference_mode():
        assert net(normal("bottleneck", (1, 3, 32, 64))).shape == (1, 3, 8, 16)


@pytest.mark.parametrize(
    ("name", "shape"), [("hrnet_w32_pose", (1, 3, 64, 32)), ("hrnet_w18_small", (1, 3, 33, 50))]
)
def test_capture_gives_the_same_output(name: str, shape: tuple[int, ...]) -> None:
    net = build(name).eval()
    fill(net)
    assert_captured(net, [normal("capture", shape)])


@pytest.mark.parametrize("bad", [0, -1, 1001, 2.0, True, "17", None])
def test_number_of_joints_out_of_range(bad: object) -> None:
    with pytest.raises(OptionError, match=r"num_joints is .* from 1 to 1000"):
        build("hrnet_w32_pose", num_joints=bad)


@pytest.mark.parametrize("bad", [0, 10_001, 2.0, True, None])
def test_number_of_classes_out_of_range(bad: object) -> None:
    with pytest.raises(OptionError, match=r"num_classes is .* from 1 to 10000"):
        build("hrnet_w18_small", num_classes=bad)


def test_options_of_the_other_head_are_refused() -> None:
    with pytest.raises(OptionError, match=r"no option num_classes; .*num_joints"):
        build("hrnet_w32_pose", num_classes=19)
