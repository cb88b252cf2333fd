"""What other projects call the tensors of our networks, and the official names.

The official names are those of the networks' authors; our modules use them. A naming is told
from the keys alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from resq_core.errors import CheckpointError

__all__ = ["AUX_HEAD", "Naming", "detect", "to_official"]

AUX_HEAD = "seghead_extra."
_PREFIXES = ("module.", "model.")  # left behind by DataParallel and by loss-computing wrappers
_LOSS = "loss."
_NORMALISATION = ("data_preprocessor.mean", "data_preprocessor.std")


@dataclass(frozen=True)
class Naming:
    """A way to name tensors.

    Attributes:
        name: `official`, `mmpose`, `mmseg-hrnet` or `mmseg-ddrnet`.
        official: a key of this naming to the official one; keys it does not know stay as they are.
        no_bias: official biases without a partner. The convolutions in question precede a batch
            norm, so a bias of zero changes nothing.
    """

    name: str
    official: Callable[[str], str]
    no_bias: tuple[str, ...] = ()


def to_official(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Naming]:
    """The tensors under official names, and the naming that they came in.

    One prefix `module.` or `model.` that all keys share is taken off; the training loss and the
    constants of a data preprocessor are left out.

    Raises CheckpointError where two keys are one tensor's.
    """
    tensors = _without_wrapping(tensors)
    naming = detect(tensors)
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = naming.official(key)
        if name in renamed:
            raise CheckpointError(f"two keys of the {naming.name} checkpoint mean {name}")
        renamed[name] = value
    return renamed, naming


def _without_wrapping(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = _wanted(tensors)
    for prefix in _PREFIXES:
        if kept and all(key.startswith(prefix) for key in kept):
            return _wanted({key.removeprefix(prefix): value for key, value in kept.items()})
    return kept


def _wanted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: value
        for key, value in tensors.items()
        if not key.startswith(_LOSS) and key not in _NORMALISATION
    }


def detect(keys: Iterable[str]) -> Naming:
    """The naming that keys without prefix are in; `official` where nothing speaks for another."""
    keys = set(keys)
    if any(_POSE_HEAD.match(key) for key in keys):
        return _MMPOSE
    if "backbone.stem.0.conv.weight" in keys:
        return _MMSEG_DDRNET
    if "decode_head.convs.0.conv.weight" in keys and any(k.startswith(_STAGE2) for k in keys):
        return _MMSEG_HRNET
    return _OFFICIAL


_BACKBONE = "backbone."
_STAGE2 = "backbone.stage2."
# before version 1.0 the head had a longer name, and could wrap its layer in a sequence
_POSE_HEAD = re.compile(r"(?:keypoint_)?head\.final_layer\.(?:0\.)?(?=weight$|bias$)")


def _pose_key(key: str) -> str:
    return _POSE_HEAD.sub("final_layer.", key).removeprefix(_BACKBONE)


_HRNET_HEAD = {
    "decode_head.convs.0.conv.": "last_layer.0.",
    "decode_head.convs.0.bn.": "last_layer.1.",
    "decode_head.conv_seg.": "last_layer.3.",
}


def _hrnet_key(key: str) -> str:
    return _by_prefix(key, _HRNET_HEAD).removeprefix(_BACKBONE)


def _ddrnet_parts() -> dict[str, str]:
    """Everything of mmseg's DDRNet outside its residual blocks, prefix by prefix."""
    sequences = {  # (theirs, ours): position of the convolution and of its norm in our sequence
        ("stem.0", "conv1"): (0, 1),
        ("stem.1", "conv1"): (3, 4),
        ("compression_1", "compression3"): (0, 1),
        ("compression_2", "compression4"): (0, 1),
        ("down_1", "down3"): (0, 1),
        ("down_2.0", "down4"): (0, 1),
        ("down_2.1", "down4"): (3, 4),
        ("spp.scales.0", "spp.scale0"): (2, 0),
        **{(f"spp.scales.{i}.1", f"spp.scale{i}"): (3, 1) for i in range(1, 5)},
        **{(f"spp.processes.{i}", f"spp.process{i + 1}"): (2, 0) for i in range(4)},
        ("spp.compression", "spp.compression"): (2, 0),
        ("spp.shortcut", "spp.shortcut"): (2, 0),
    }
    parts = {}
    for (theirs, ours), (conv, norm) in sequences.items():
        parts[f"backbone.{theirs}.conv."] = f"{ours}.{conv}."
        parts[f"backbone.{theirs}.bn."] = f"{ours}.{norm}."
    for theirs, logits, ours in (
        ("head", "conv_seg", "final_layer"),
        ("aux_head", "aux_cls_seg", "seghead_extra"),
    ):
        parts[f"decode_head.{theirs}.0.bn."] = f"{ours}.bn1."
        parts[f"decode_head.{theirs}.0.conv."] = f"{ours}.conv1."
        parts[f"decode_head.{theirs}.1."] = f"{ours}.bn2."
        parts[f"decode_head.{logits}."] = f"{ours}.conv2."
    return parts


_DDRNET_PARTS = _ddrnet_parts()
_DDRNET_STAGES = {
    "backbone.stem.2.": "layer1.",
    "backbone.stem.4.": "layer2.",
    **{f"backbone.context_branch_layers.{i}.": f"layer{i + 3}." for i in range(3)},
    **{f"backbone.spatial_branch_layers.{i}.": f"layer{i + 3}_." for i in range(3)},
}


def _ddrnet_key(key: str) -> str:
    part = _by_prefix(key, _DDRNET_PARTS)
    if part != key:
        return part
    staged = _by_prefix(key, _DDRNET_STAGES)
    if staged == key:
        return key
    return re.sub(
        r"\.conv(\d)\.bn\.", r".bn\1.", re.sub(r"\.conv(\d)\.conv\.", r".conv\1.", staged)
    )


def _by_prefix(key: str, prefixes: Mapping[str, str]) -> str:
    for theirs, ours in prefixes.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


_OFFICIAL = Naming("official", lambda key: key)
_MMPOSE = Naming("mmpose", _pose_key)
_MMSEG_HRNET = Naming("mmseg-hrnet", _hrnet_key, ("last_layer.0.bias",))
_MMSEG_DDRNET = Naming("mmseg-ddrnet", _ddrnet_key, ("conv1.0.bias", "conv1.3.bias"))
