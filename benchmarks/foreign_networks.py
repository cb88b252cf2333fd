"""Networks of `transformers` with random weights, at sizes that a laptop runs in seconds.

Nothing is downloaded. A fresh initialisation is no fair stand-in for a trained network: many of
these start with signals that die out (a standard deviation of 0.02 everywhere, layer scales of
1e-6). `lively` gives every layer unit gain, so that what enters reaches the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

__all__ = ["NETWORKS", "Network", "lively", "walk"]


@dataclass(frozen=True)
class Network:
    """A network, by what it is called, for frames of height × width."""

    name: str
    height: int
    width: int
    build: Callable[[], Any]


VIT: dict[str, Any] = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
DINO: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN: dict[str, Any] = {"embed_dim": 48, "depths": [2, 2, 2, 2], "out_features": STAGES}
RESNET: dict[str, Any] = {
    "embedding_size": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [2, 2, 2, 2],
    "layer_type": "basic",
}  # fmt: skip
DETR: dict[str, Any] = {
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
    "d_model": 128, "encoder_layers": 3, "decoder_layers": 3, "num_queries": 30,
    "encoder_ffn_dim": 512, "decoder_ffn_dim": 512,
}  # fmt: skip
MASKS: dict[str, Any] = {
    "feature_size": 64, "mask_feature_size": 64, "hidden_dim": 64, "num_queries": 30,
    "num_attention_heads": 4, "encoder_layers": 3, "decoder_layers": 4,
    "dim_feedforward": 256, "encoder_feedforward_dim": 256,
}  # fmt: skip


def _resnet(*stages: str) -> Any:
    return hf.ResNetConfig(**RESNET, out_features=list(stages))


def _dpt() -> Any:
    config = hf.DPTConfig(**VIT, image_size=96, neck_hidden_sizes=[48, 96, 192, 384])
    return hf.DPTForDepthEstimation(config)


def _depth_anything() -> Any:
    backbone = hf.Dinov2Config(
        **DINO, patch_size=14, out_indices=[3, 6, 9, 12], reshape_hidden_states=False
    )
    config = hf.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
    )
    return hf.DepthAnythingForDepthEstimation(config)


def _upernet(backbone: Any, in_channels: int) -> Any:
    config = hf.UperNetConfig(
        backbone_config=backbone,
        hidden_size=128,
        num_labels=19,
        auxiliary_in_channels=in_channels,
        pool_scales=[1, 2, 3, 6],
    )
    return hf.UperNetForSemanticSegmentation(config)


def _vitpose() -> Any:
    backbone = hf.VitPoseBackboneConfig(
        image_size=(96, 64), hidden_size=192, num_attention_heads=3, out_indices=[12]
    )
    return hf.VitPoseForPoseEstimation(hf.VitPoseConfig(backbone_config=backbone, num_labels=17))


NETWORKS: tuple[Network, ...] = (
    Network("SegFormer-b0", 64, 96, lambda: hf.SegformerForSemanticSegmentation(
        hf.SegformerConfig(num_labels=19))),
    Network("ViT, width 192", 64, 96, lambda: hf.ViTForImageClassification(
        hf.ViTConfig(**VIT, image_size=(64, 96), num_labels=1000))),
    Network("ViTPose, width 192", 96, 64, _vitpose),
    Network("MobileNetV2", 96, 96, lambda: hf.MobileNetV2ForImageClassification(
        hf.MobileNetV2Config(num_labels=1000))),
    Network("MobileNetV2 + DeepLabV3+", 64, 96, lambda: hf.MobileNetV2ForSemanticSegmentation(
        hf.MobileNetV2Config(num_labels=21))),
    Network("MobileViT-small + DeepLabV3", 64, 96, lambda: hf.MobileViTForSemanticSegmentation(
        hf.MobileViTConfig(num_labels=21))),
    Network("DPT, width 192", 96, 96, _dpt),
    Network("Depth Anything-small", 56, 84, _depth_anything),
    Network("UperNet + Swin, width 48", 64, 96, lambda: _upernet(hf.SwinConfig(**SWIN), 192)),
    Network("ConvNeXt-tiny", 64, 96, lambda: hf.ConvNextForImageClassification(
        hf.ConvNextConfig(num_labels=1000))),
    Network("DINOv2-small", 56, 84, lambda: hf.Dinov2Model(hf.Dinov2Config(
        **DINO, patch_size=14))),
    Network("PVTv2-b0", 64, 96, lambda: hf.PvtV2ForImageClassification(
        hf.PvtV2Config(num_labels=1000))),
    Network("YOLOS, width 192", 64, 96, lambda: hf.YolosForObjectDetection(hf.YolosConfig(
        **VIT, image_size=[64, 96], num_detection_tokens=20))),
    Network("DETR, width 128", 64, 96, lambda: hf.DetrForObjectDetection(hf.DetrConfig(
        **DETR, backbone_config=_resnet("stage4")))),
    Network("Deformable DETR, width 128", 64, 96, lambda: hf.DeformableDetrForObjectDetection(
        hf.DeformableDetrConfig(**DETR, backbone_config=_resnet("stage2", "stage3", "stage4")))),
    Network("SuperPoint", 64, 96, lambda: hf.SuperPointForKeypointDetection(
        hf.SuperPointConfig())),
    Network("Mask2Former, width 64", 64, 96, lambda: hf.Mask2FormerForUniversalSegmentation(
        hf.Mask2FormerConfig(**MASKS, backbone_config=hf.SwinConfig(**SWIN)))),
    Network("EoMT, width 192", 64, 64, lambda: hf.EomtForUniversalSegmentation(hf.EomtConfig(
        hidden_size=192, num_attention_heads=3, num_hidden_layers=6, num_blocks=2,
        image_size=64, num_queries=20))),
)  # fmt: skip
"""Most frames are not square; sizes are what a network's patches and strides divide."""


def lively(module: nn.Module, frames: Tensor) -> nn.Module:
    """Give every layer unit gain and every batch norm statistics, in place.

    Args:
        module: any network.
        frames: [N, C, H, W] of different scenes, N > 1, what the statistics are taken from.

    Returns:
        The module, in eval mode.
    """
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for part in module.modules():
        if isinstance(part, layers):
            fan_in = part.weight[0].numel()
            nn.init.normal_(part.weight, std=fan_in**-0.5)
    for name, parameter in module.named_parameters():
        closed = parameter.ndim == 1 and parameter.abs().max() < 1e-3
        if closed and not name.endswith("bias"):
            nn.init.constant_(parameter, 0.5)  # a layer scale, which training opens
    module.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None
    if norms:
        with torch.no_grad():
            module(frames)
    return module.eval()


def walk(frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    """[frames, 3, height, width]: a soft still background and a textured patch that walks."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, height // 16, width // 16, generator=generator)
    background = F.interpolate(coarse, (height, width), mode="bicubic")
    side = height // 3
    patch = background.new_empty(1, 3, side, side).normal_(generator=generator)
    patch = F.avg_pool2d(patch, 3, 1, 1) * 2
    clip = background.repeat(frames, 1, 1, 1)
    for i in range(frames):
        left = 2 * i % (width - side)
        clip[i, :, side : 2 * side, left : left + side] = patch[0]
    return clip
