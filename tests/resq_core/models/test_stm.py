"""STM against the official implementation's recorded outputs, and properties of its parts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from resq_core.errors import CheckpointError, InputError, OptionError
from resq_core.models import build, load_backbone, options_in
from resq_core.models.objects import aggregate, crop, object_masks, pad_to_stride
from resq_core.models.stm import STM
from tests.resq_core.models.foreign import published_lite0
from tests.resq_core.models.golden import (
    assert_captured,
    assert_golden,
    conv_rows,
    fill,
    golden,
    manifest_of,
    normal,
)

CONSTANTS = ["Encoder_M.mean", "Encoder_M.std", "Encoder_Q.mean", "Encoder_Q.std"]
CASE, SIZE = "64x96_1obj", (64, 96)
SLOTS = 11
TAPS = {
    "Encoder_M.r4": "Encoder_M",
    "Encoder_Q": "Encoder_Q",
    "KV_Q_r4.Key": "KV_Q_r4.Key",
    "KV_Q_r4.Value": "KV_Q_r4.Value",
    "Memory.mem_out": "Memory",
    "Decoder.logits": "Decoder",
}


@pytest.fixture(scope="module")
def net() -> STM:
    module = build("stm").eval()
    assert isinstance(module, STM)
    fill(module, CONSTANTS)
    return module


def scene(objects: int, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """The kit's two frames [2, 3, H, W] and its masks [1, 11, H, W] of one or two objects."""
    masks = torch.zeros(1, SLOTS, *size)
    masks[0, 1, 16:40, 12:48] = 1
    if objects > 1:
        masks[0, 2, 20:52, 56:84] = 1
    masks[0, 0] = 1 - masks[0].sum(0)
    return normal("input", (2, 3, *size)), masks


@torch.inference_mode()
def followed(net: STM, objects: int, size: tuple[int, int]) -> Tensor:
    frames, masks = scene(objects, size)
    keys, values = net.memorize(frames[:1], masks, objects)
    return net.segment(frames[1:], keys, values, objects)


@torch.inference_mode()
def test_outputs_and_taps_are_the_official_ones(shared: Path, net: STM) -> None:
    want = golden(shared, "stm")["cases"][CASE]["B"]
    assert fill(net, CONSTANTS) == want["fill_sha256"]
    seen: dict[str, Tensor] = {}

    def keep(_module: object, inputs: tuple[Tensor, ...], _output: object) -> None:
        seen["Memory.p"] = net.Memory.attention(inputs[0], inputs[2])

    hooks = [net.Memory.register_forward_hook(keep)]
    for tap, path in TAPS.items():
        hooks.append(
            net.get_submodule(path).register_forward_hook(
                lambda _m, _i, out, tap=tap: seen.__setitem__(tap, out)
            )
        )
    frames, masks = scene(1)
    keys, values = net.memorize(frames[:1], masks, 1)
    logit = net.segment(frames[1:], keys, values, 1)
    for hook in hooks:
        hook.remove()
    r4, r3, r2 = seen.pop("Encoder_Q")
    seen |= {"Encoder_Q.r4": r4, "Encoder_Q.r3": r3, "Encoder_Q.r2": r2, "segment.logit": logit}
    seen |= {"memorize.key": keys[:, 1:2], "memorize.value": values[:, 1:2]}
    full = {"memorize.key": keys, "memorize.value": values, "segment.logit": logit}
    assert {k: list(v.shape) for k, v in full.items()} == want["full_shapes"]
    assert seen.keys() == want["outputs"].keys()
    for tap, record in want["outputs"].items():
        assert_golden(seen[tap], record, tap, 5e-3 if tap == "segment.logit" else 1e-4)


def test_every_golden_case_is_tested(shared: Path) -> None:
    record = golden(shared, "stm")
    assert list(record["cases"]) == [CASE]
    assert record["constants"]["keys"] == CONSTANTS


def test_keys_shapes_types_and_order(shared: Path) -> None:
    with torch.device("meta"):
        state = build("stm").state_dict()
    assert manifest_of(state) == golden(shared, "stm")["state_dict_manifest"]


def test_multiply_adds_of_every_layer(shared: Path) -> None:
    want = json.loads((shared / "golden" / "macs.json").read_text())["stm"]
    height, width = want["input"][2:]
    with torch.device("meta"):
        module = build("stm").eval()
        frame = torch.empty(1, 3, height, width)
        rows = []
        r4 = torch.empty(1, 1024, height // 16, width // 16)
        r3 = torch.empty(1, 512, height // 8, width // 8)
        r2 = torch.empty(1, 256, height // 4, width // 4)
        mask = torch.empty(1, height, width)
        for part, inputs in {
            "Encoder_M": (frame, mask, mask),
            "KV_M_r4": (r4,),
            "Encoder_Q": (frame,),
            "KV_Q_r4": (r4,),
            "Decoder": (r4, r3, r2),
        }.items():
            own = conv_rows(module.get_submodule(part), *inputs)
            rows += [[f"{part}.{name}", *rest] for name, *rest in own]
            assert sum(row[1] for row in own) == want["groups_1obj"][part]
    assert rows == [row[:4] for row in want["layers"]]
    assert sum(p.numel() for p in module.parameters()) == want["params"]


@torch.inference_mode()
def test_two_objects_are_each_followed_as_if_alone_but_for_the_other_mask(net: STM) -> None:
    """Against the definition: every object apart, all inputs repeated for it."""
    frames, masks = scene(2)
    keys, values = net.memorize(frames[:1], masks, 2)
    assert not keys[0, 0].any()
    assert not values[0, 3:].any()
    r4, r3, r2 = net.Encoder_Q(frames[1:])
    key, value = net.KV_Q_r4(r4)
    probabilities = []
    for own, other in ((1, 2), (2, 1)):
        k, v = net.KV_M_r4(net.Encoder_M(frames[:1], masks[:, own], masks[:, other]))
        torch.testing.assert_close(keys[0, own, :, 0], k[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(values[0, own, :, 0], v[0], rtol=1e-4, atol=1e-4)
        read = net.Memory(k[:, :, None], v[:, :, None], key, value)
        probabilities.append(net.Decoder(read, r3, r2).softmax(1)[:, 1])
    p1, p2 = probabilities
    p = torch.cat([(1 - p1) * (1 - p2), p1, p2, *[torch.zeros_like(p1)] * (SLOTS - 3)])
    p = p.clamp(1e-7, 1 - 1e-7)
    got = net.segment(frames[1:], keys, values, 2)[0].sigmoid()
    torch.testing.assert_close(got, p, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_features_given_once_serve_every_object(net: STM) -> None:
    read, r3, r2 = (
        normal("read", (3, 1024, 2, 3)),
        normal("r3", (1, 512, 4, 6)),
        normal("r2", (1, 256, 8, 12)),
    )
    seen: list[int] = []
    hooks = [
        part.convFS.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[0]))
        for part in (net.Decoder.RF3, net.Decoder.RF2)
    ]
    once = net.Decoder(read, r3, r2)
    for hook in hooks:
        hook.remove()
    assert seen == [1, 1]
    repeated = net.Decoder(read, r3.expand(3, -1, -1, -1), r2.expand(3, -1, -1, -1))
    torch.testing.assert_close(once, repeated, rtol=0, atol=1e-5 * repeated.std().item())


@pytest.mark.parametrize("objects", [1, 2])
def test_a_size_off_the_stride_is_padded_evenly_and_cropped_back(net: STM, objects: int) -> None:
    frames, masks = scene(objects, (60, 90))
    got = followed(net, objects, (60, 90))
    assert got.shape == (1, SLOTS, 60, 90)
    around = (3, 3, 2, 2)
    with torch.inference_mode():
        keys, values = net.memorize(F.pad(frames[:1], around), F.pad(masks, around), objects)
        whole = net.segment(F.pad(frames[1:], around), keys, values, objects)
    assert torch.equal(got, whole[:, :, 2:-2, 3:-3])


@torch.inference_mode()
def test_many_objects_and_a_memory_of_several_frames(net: STM) -> None:
    objects, slots = 12, 14
    frames = normal("many", (3, 3, 16, 32))
    masks = normal("masks", (1, slots, 16, 32)).softmax(1)
    memory = [net.memorize(frames[i : i + 1], masks, objects) for i in range(2)]
    keys, values = (torch.cat(parts, 3) for parts in zip(*memory, strict=True))
    assert keys.shape == (1, slots, 128, 2, 1, 2)
    assert values.shape == (1, slots, 512, 2, 1, 2)
    logits = net.segment(frames[2:], keys, values, objects)
    assert logits.shape == (1, slots, 16, 32)
    edge = math.log(1e-7 / (1 - 1e-7))
    assert logits[0, objects + 1 :].numpy() == pytest.approx(edge, abs=1e-3)
    assert torch.equal(logits, net(frames[2:], keys, values, objects))


@torch.inference_mode()
def test_memory_attends_over_all_frames_and_an_equal_memory_changes_nothing(net: STM) -> None:
    keys, values = normal("k", (2, 128, 1, 2, 3)), normal("v", (2, 512, 1, 2, 3))
    key, value = normal("q", (1, 128, 2, 3)), normal("w", (1, 512, 2, 3))
    once = net.Memory(keys, values, key, value)
    assert torch.equal(once[:, 512:], value.expand(2, -1, -1, -1))
    twice = net.Memory(torch.cat([keys] * 2, 2), torch.cat([values] * 2, 2), key, value)
    torch.testing.assert_close(twice, once, rtol=1e-4, atol=1e-5)
    attention = net.Memory.attention(torch.cat([keys] * 2, 2), key)
    assert attention.shape == (2, 12, 6)
    torch.testing.assert_close(attention.sum(1), torch.ones(2, 6))


def test_masks_of_objects_and_of_all_others() -> None:
    masks = torch.tensor([0.1, 0.5, 0.7, 0.4, 9.0]).view(1, 5, 1, 1)
    own, others = object_masks(masks, 3)
    assert own.flatten().tolist() == pytest.approx([0.5, 0.7, 0.4])
    assert others.flatten().tolist() == pytest.approx([1.0, 0.9, 1.0])
    alone = object_masks(masks, 1)[1]
    assert alone.flatten().tolist() == [0.0]


def test_aggregation_of_certain_and_uncertain_objects() -> None:
    logits = aggregate(torch.tensor([1.0, 0.25]).view(2, 1, 1), 4).flatten()
    top, bottom = math.log((1 - 2**-23) * 2**23), math.log(1e-7 / (1 - 1e-7))
    assert logits.tolist() == pytest.approx([bottom, top, math.log(1 / 3), bottom], abs=1e-3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (15, 17), (16, 32), (61, 90)])
def test_padding_has_zeros_around_and_comes_off_again(height: int, width: int) -> None:
    x = normal("padding", (1, 2, height, width))
    padded = pad_to_stride(x)
    assert padded.shape[2] % 16 == padded.shape[3] % 16 == 0
    assert torch.equal(crop(padded, height, width), x)
    assert padded.count_nonzero() == x.count_nonzero()
    left = (padded.shape[3] - width) // 2
    assert not padded[..., :left].any()


def test_the_three_quantizable_parts_are_captured(net: STM) -> None:
    frame, mask = normal("frame", (1, 3, 32, 48)), normal("mask", (2, 32, 48)).sigmoid()
    assert_captured(net.Encoder_M, [frame, mask, 1 - mask])
    assert_captured(net.Encoder_Q, [frame])
    features = [(2, 1024, 2, 3), (1, 512, 4, 6), (1, 256, 8, 12)]
    assert_captured(net.Decoder, [normal(f"r{s[1]}", s) for s in features])


def test_frames_masks_and_memories_of_wrong_shape_or_type(net: STM) -> None:
    frame, masks = torch.zeros(1, 3, 16, 32), torch.zeros(1, 3, 16, 32)
    keys, values = torch.zeros(1, 3, 128, 1, 1, 2), torch.zeros(1, 3, 512, 1, 1, 2)
    with pytest.raises(InputError, match=r"frame has shape \[2, 3, 16, 32\]; expected \[1, 3, H"):
        net.memorize(torch.zeros(2, 3, 16, 32), masks, 1)
    with pytest.raises(InputError, match=r"frame is torch.uint8"):
        net.segment(frame.to(torch.uint8), keys, values, 1)
    with pytest.raises(InputError, match=r"masks have shape .*; expected \[1, K, 16, 32\]"):
        net.memorize(frame, masks[..., :-1], 1)
    with pytest.raises(InputError, match=r"keys have shape .*; expected \[1, K, 128, T, 1, 2\]"):
        net.segment(frame, keys[..., :1], values, 1)
    with pytest.raises(InputError, match=r"keys have shape"):
        net.segment(frame, keys[0], values, 1)
    with pytest.raises(InputError, match=r"values have shape .*K and T alike"):
        net.segment(frame, keys, values.repeat(1, 1, 1, 2, 1, 1), 1)


@pytest.mark.parametrize("bad", [0, 3, -1, 1.0, True, None])
def test_number_of_objects_out_of_range(net: STM, bad: int) -> None:
    frame, masks = torch.zeros(1, 3, 16, 32), torch.zeros(1, 3, 16, 32)
    with pytest.raises(OptionError, match=r"num_objects is .* from 1 to 2, because there are 3"):
        net.memorize(frame, masks, bad)
    keys, values = torch.zeros(1, 3, 128, 1, 1, 2), torch.zeros(1, 3, 512, 1, 1, 2)
    with pytest.raises(OptionError, match="num_objects"):
        net.segment(frame, keys, values, bad)


def test_a_width_out_of_range() -> None:
    with pytest.raises(OptionError, match="no option num_objects; its options are: width, b"):
        build("stm", num_objects=2)
    with pytest.raises(OptionError, match="width is 65"):
        build("stm", width=65)


def test_a_narrow_one_follows_objects() -> None:
    narrow = build("stm", width=4).eval()
    assert isinstance(narrow, STM)
    frames, masks = scene(2)
    with torch.inference_mode():
        keys, values = narrow.memorize(frames[:1], masks, 2)
        assert (keys.shape[2], values.shape[2]) == (8, 32)
        assert narrow.segment(frames[1:], keys, values, 2).shape == (1, SLOTS, *SIZE)
        with pytest.raises(InputError, match=r"the keys have shape .* expected \[1, K, 8, T"):
            narrow.segment(frames[1:], keys.repeat(1, 1, 2, 1, 1, 1), values, 2)


def test_both_encoders_of_a_new_network_see_alike() -> None:
    net = build("stm", width=4)
    memory, query = net.get_submodule("Encoder_M"), net.get_submodule("Encoder_Q")
    assert all(torch.equal(memory.state_dict()[k], v) for k, v in query.state_dict().items())
    for name, value in net.get_submodule("KV_Q_r4").state_dict().items():
        assert torch.equal(net.get_submodule("KV_M_r4").state_dict()[name], value)


LITE = {"width": 4, "backbone": "efficientnet_lite0"}


def test_one_with_a_light_backbone_follows_objects() -> None:
    light = build("stm", **LITE).eval()
    assert isinstance(light, STM)
    frames, masks = scene(2)
    with torch.inference_mode():
        keys, values = light.memorize(frames[:1], masks, 2)
        assert (keys.shape[2], values.shape[2]) == (8, 32)
        assert light.segment(frames[1:], keys, values, 2).shape == (1, SLOTS, *SIZE)
        shapes = [x.shape for x in light.Encoder_Q(frames[1:])]
    assert [shape[1] for shape in shapes] == [112, 40, 24]
    features = light.features(1, *SIZE)
    assert [x.shape[2:] for x in features] == [shape[2:] for shape in shapes]


def test_both_encoders_take_a_published_backbone(tmp_path: Path) -> None:
    light = build("stm", **LITE)
    assert isinstance(light, STM)
    weights = published_lite0(light)
    torch.save(weights, tmp_path / "lite0.pth")
    load_backbone(light, tmp_path / "lite0.pth")
    for encoder in (light.Encoder_M, light.Encoder_Q):
        assert torch.equal(encoder.conv1.weight, weights["_conv_stem.weight"])
        last = encoder.get_submodule("res4.5.bn3").state_dict()
        assert torch.equal(last["running_var"], weights["_blocks.10._bn2.running_var"])
    odd = {**weights, "_blocks.10": torch.zeros(1), "_blocks.x.y.z": torch.zeros(1)}
    odd["_blocks.3._bn1.bias"] = torch.full((144,), torch.nan)
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth holds NaN or infinity in res3\.0\.bn2"):
        load_backbone(light, tmp_path / "odd.pth")
    del weights["_blocks.3._bn1.bias"]
    torch.save(weights, tmp_path / "damaged.pth")
    with pytest.raises(
        CheckpointError, match=r"damaged\.pth is no EfficientNet.*res3\.0\.bn2\.bias"
    ):
        load_backbone(light, tmp_path / "damaged.pth")
    with pytest.raises(OptionError, match="backbone is resnet50; expected efficientnet_lite0"):
        load_backbone(STM(4), tmp_path / "lite0.pth")
    with pytest.raises(OptionError, match="no backbone is called 'resnet'; did you mean resnet50"):
        build("stm", backbone="resnet")


def test_a_checkpoint_shows_width_and_backbone(tmp_path: Path) -> None:
    for options in ({"width": 1}, {"width": 4}, LITE):
        path = tmp_path / "weights.safetensors"
        save_file(build("stm", **options).state_dict(), path)
        assert options_in(path, "stm") == options
