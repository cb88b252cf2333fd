"""Our networks' weights under the names that other projects give them."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from resq_core.models import STM, build

# official → mmseg, for everything outside residual blocks
_DDRNET = [
    (r"conv1\.0\.", "backbone.stem.0.conv."),
    (r"conv1\.1\.", "backbone.stem.0.bn."),
    (r"conv1\.3\.", "backbone.stem.1.conv."),
    (r"conv1\.4\.", "backbone.stem.1.bn."),
    (r"compression3\.0\.", "backbone.compression_1.conv."),
    (r"compression3\.1\.", "backbone.compression_1.bn."),
    (r"compression4\.0\.", "backbone.compression_2.conv."),
    (r"compression4\.1\.", "backbone.compression_2.bn."),
    (r"down3\.0\.", "backbone.down_1.conv."),
    (r"down3\.1\.", "backbone.down_1.bn."),
    (r"down4\.0\.", "backbone.down_2.0.conv."),
    (r"down4\.1\.", "backbone.down_2.0.bn."),
    (r"down4\.3\.", "backbone.down_2.1.conv."),
    (r"down4\.4\.", "backbone.down_2.1.bn."),
    (r"spp\.scale0\.0\.", "backbone.spp.scales.0.bn."),
    (r"spp\.scale0\.2\.", "backbone.spp.scales.0.conv."),
    (r"spp\.scale(\d)\.1\.", r"backbone.spp.scales.\1.1.bn."),
    (r"spp\.scale(\d)\.3\.", r"backbone.spp.scales.\1.1.conv."),
    (r"spp\.(compression|shortcut)\.0\.", r"backbone.spp.\1.bn."),
    (r"spp\.(compression|shortcut)\.2\.", r"backbone.spp.\1.conv."),
    (r"final_layer\.bn1\.", "decode_head.head.0.bn."),
    (r"final_layer\.conv1\.", "decode_head.head.0.conv."),
    (r"final_layer\.bn2\.", "decode_head.head.1."),
    (r"final_layer\.conv2\.", "decode_head.conv_seg."),
    (r"seghead_extra\.bn1\.", "decode_head.aux_head.0.bn."),
    (r"seghead_extra\.conv1\.", "decode_head.aux_head.0.conv."),
    (r"seghead_extra\.bn2\.", "decode_head.aux_head.1."),
    (r"seghead_extra\.conv2\.", "decode_head.aux_cls_seg."),
]
_STAGES = {
    "layer1": "stem.2",
    "layer2": "stem.4",
    "layer3": "context_branch_layers.0",
    "layer4": "context_branch_layers.1",
    "layer5": "context_branch_layers.2",
    "layer3_": "spatial_branch_layers.0",
    "layer4_": "spatial_branch_layers.1",
    "layer5_": "spatial_branch_layers.2",
}


def mmseg_ddrnet(key: str) -> str:
    process = re.match(r"spp\.process(\d)\.([02])\.(.*)", key)
    if process:
        part = "bn" if process[2] == "0" else "conv"
        return f"backbone.spp.processes.{int(process[1]) - 1}.{part}.{process[3]}"
    for pattern, theirs in _DDRNET:
        if re.match(pattern, key):
            return re.sub("^" + pattern, theirs, key)
    stage, _, rest = key.partition(".")
    rest = re.sub(r"^(\d)\.conv(\d)\.", r"\1.conv\2.conv.", rest)
    rest = re.sub(r"^(\d)\.bn(\d)\.", r"\1.conv\2.bn.", rest)
    return f"backbone.{_STAGES[stage]}.{rest}"


def mmseg_hrnet(key: str) -> str:
    head = {
        "last_layer.0": "decode_head.convs.0.conv",
        "last_layer.1": "decode_head.convs.0.bn",
        "last_layer.3": "decode_head.conv_seg",
    }
    module, _, name = key.rpartition(".")
    return f"{head[module]}.{name}" if module in head else f"backbone.{key}"


def mmpose(key: str, head: str = "head.") -> str:
    return f"{head}{key}" if key.startswith("final_layer.") else f"backbone.{key}"


def mmpose_before_1(key: str) -> str:
    return mmpose(key, "keypoint_head.")


def mmpose_wrapped(key: str) -> str:
    return mmpose(key, "keypoint_head.").replace("final_layer.", "final_layer.0.")


def network(arch: str, **options: object) -> nn.Module:
    """A network in evaluation mode whose weights depend on the architecture's names alone."""
    with torch.device("meta"):
        net = build(arch, **options)
    net = net.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(7)
    for key, value in net.state_dict().items():
        if not value.is_floating_point():
            value.fill_(3)
        elif key.endswith(".mean"):
            value.fill_(0.5)
        elif key.endswith(("running_var", ".std")):
            value.uniform_(0.9, 1.1, generator=generator)
        elif value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        else:
            value.normal_(0.1, 0.1, generator=generator)
    return net


def without_bias(net: nn.Module, *keys: str) -> dict[str, Tensor]:
    """The state dict without biases that another project lacks; they are zero in the network."""
    state = net.state_dict()
    for key in keys:
        state.pop(key).zero_()
    return dict(state)


_LITE0 = {"conv1": "_expand_conv", "conv2": "_depthwise_conv", "conv3": "_project_conv"}
_LITE0 |= {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}


def published_lite0(net: STM) -> dict[str, Tensor]:
    """An encoder's values moved a little, under the names of the whole classifier's checkpoint."""
    found: dict[str, Tensor] = {"_fc.bias": torch.zeros(1000)}
    index = {2: 0, 3: 3, 4: 5}  # of a stage's first block
    for key, value in net.Encoder_Q.state_dict().items():
        stage, *rest = key.split(".")
        if stage in ("conv1", "bn1"):
            name = f"{'_conv_stem' if stage == 'conv1' else '_bn0'}.{rest[0]}"
        elif stage.startswith("res"):
            block, part, what = rest
            name = f"_blocks.{index[int(stage[3])] + int(block)}.{_LITE0[part]}.{what}"
        else:
            continue
        found[name] = value + 1
    return found
