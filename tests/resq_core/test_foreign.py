"""Networks of another library, unedited: captured, quantized, calibrated and streamed.

Tiny configurations with random weights; `benchmarks/foreign.py` runs larger ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import resq_core
from resq_core.capture import capture

hf = pytest.importorskip(
    "transformers", reason="foreign networks come from transformers: pip install 'resq[dev]'"
)

VIT: dict[str, Any] = {
    "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2
}  # fmt: skip


def segformer() -> Any:
    config = hf.SegformerConfig(
        num_encoder_blocks=2, hidden_sizes=[8, 16], depths=[1, 1], num_attention_heads=[1, 2],
        sr_ratios=[4, 2], patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2],
        decoder_hidden_size=16, num_labels=5,
    )  # fmt: skip
    return hf.SegformerForSemanticSegmentation(config)


def vit() -> Any:
    return hf.ViTForImageClassification(hf.ViTConfig(**VIT, image_size=(64, 96), num_labels=50))


def vitpose() -> Any:
    backbone = hf.VitPoseBackboneConfig(
        image_size=(64, 96), hidden_size=32, num_attention_heads=2, num_hidden_layers=2,
        out_indices=[2],
    )  # fmt: skip
    return hf.VitPoseForPoseEstimation(hf.VitPoseConfig(backbone_config=backbone, num_labels=5))


def mobilenet() -> Any:
    config = hf.MobileNetV2Config(depth_multiplier=0.25, num_labels=5)
    return hf.MobileNetV2ForSemanticSegmentation(config)


def mobilevit() -> Any:
    config = hf.MobileViTConfig(
        hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16], num_labels=5,
        aspp_out_channels=16, num_attention_heads=2, mlp_ratio=1.0, expand_ratio=1.0,
    )  # fmt: skip
    return hf.MobileViTForSemanticSegmentation(config)


def depth_anything() -> Any:
    backbone = hf.Dinov2Config(
        hidden_size=32, num_attention_heads=2, num_hidden_layers=4, mlp_ratio=2, image_size=112,
        patch_size=16, out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    config = hf.DepthAnythingConfig(
        backbone_config=backbone, patch_size=16, reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8, head_hidden_size=8,
    )  # fmt: skip
    return hf.DepthAnythingForDepthEstimation(config)


def convnext() -> Any:
    config = hf.ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], num_labels=5)
    return hf.ConvNextForImageClassification(config)


def upernet_swin() -> Any:
    backbone = hf.SwinConfig(
        embed_dim=8, depths=[2, 1], num_heads=[1, 2], window_size=4,
        out_features=["stage1", "stage2"],
    )  # fmt: skip
    config = hf.UperNetConfig(
        backbone_config=backbone, hidden_size=16, num_labels=5, pool_scales=[1, 2],
        use_auxiliary_head=False,
    )  # fmt: skip
    return hf.UperNetForSemanticSegmentation(config)


def detr() -> Any:
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage4"],
    )  # fmt: skip
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, d_model=32, encoder_layers=1, decoder_layers=1, num_queries=7,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )  # fmt: skip
    return hf.DetrForObjectDetection(config)


NETWORKS: tuple[Callable[[], Any], ...] = (
    segformer, vit, vitpose, mobilenet, mobilevit, depth_anything, convnext, upernet_swin, detr
)  # fmt: skip

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)

# what the other library and the tracing of its code say; ours stay errors
pytestmark = pytest.mark.filterwarnings("default:::transformers")


def lively(build: Callable[[], Any]) -> nn.Module:
    """Unit gain for every layer, so that what enters a random network reaches its output."""
    torch.manual_seed(0)
    module: nn.Module = build()
    for part in module.modules():
        if isinstance(part, LAYERS):
            nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)
    return module.eval()


def clip(frames: int) -> Tensor:
    """[frames, 3, 64, 96]: noise with a bright square that walks."""
    generator = torch.Generator().manual_seed(1)
    result = torch.randn(1, 3, 64, 96, generator=generator).repeat(frames, 1, 1, 1)
    for i in range(frames):
        result[i, :, 20:40, i : i + 20] += 1.5
    return result


def tensors(output: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]


def distance(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean().sqrt().item() / a.std().item()


@pytest.mark.parametrize("build", NETWORKS)
def test_any_network_runs_unedited(build: Callable[[], Any]) -> None:
    module, frames = lively(build), clip(31)
    q = resq_core.quantize(module, "W8A8->W8A8", period=31, example=frames[:1])
    with torch.no_grad():
        wanted, got = module(frames[:1]), q.float(frames[:1])
    assert type(got) is type(wanted)
    for a, b in zip(tensors(wanted), tensors(got), strict=True):
        assert (a - b).abs().max().item() < 1e-4 * a.std().item()
    layers = {n for n, m in module.named_modules() if isinstance(m, LAYERS)}
    found = {name.partition("#")[0] for name in q.macs(frames[:1])}
    assert found <= layers
    assert len(found) >= 0.8 * len(layers)  # the others see no pixel, or are not called

    dynamic = "W8A8->W8A{0,4,8}"
    q.calibrate([frames], also=["W8A8", dynamic], samples=3, points=5)
    dense, tracked = q.with_precision("W8A8").stream(), q.stream()
    still = q.with_precision(dynamic).stream(reference="keyframe")
    plain = dense.step(frames[:1])
    for stream in (tracked, still):
        keyframe = stream.step(frames[:1])
        assert keyframe.is_anchor
        assert keyframe.bops == plain.bops
        assert all(map(torch.equal, tensors(keyframe.output), tensors(plain.output)))
    assert still.step(frames[:1]).mean_bits == 0
    changed = still.step(frames[9:10], bit_map=True)
    assert changed.bops.frame > 0
    assert changed.bit_map is not None
    assert bool(torch.isfinite(changed.bit_map).all())
    for i in range(1, 31):
        result = tracked.step(frames[i : i + 1])
    assert not result.is_anchor
    last = frames[30:31]
    three = (q.float(last), dense.step(last).output, result.output)
    for exact, a, b in zip(*map(tensors, three), strict=True):
        assert distance(a, b) < 0.1 + 1.5 * distance(exact, a)  # within W8A8's own error


def test_a_network_runs_at_other_sizes() -> None:
    x = torch.randn(1, 3, 96, 64)
    graph = capture(lively(segformer), [x])
    got = graph.run([x], lambda op, v: op.apply(v, op.weight, op.bias))
    assert got.logits.shape == (1, 5, 24, 16)
