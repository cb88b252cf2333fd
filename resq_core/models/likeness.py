"""What each network's weights look like: their keys and shapes, without memory for values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from resq_core.models import efficientnet
from resq_core.models.key_names import AUX_HEAD
from resq_core.models.registry import build, names, options_of

__all__ = ["counted_options", "expected", "lookalike"]

_LOGITS = {  # whose values an option counts
    "num_joints": ("final_layer.bias",),
    "num_classes": ("final_layer.conv2.bias", "last_layer.3.bias"),
}
_FINER = "final_layer.conv2.weight"  # [inputs, classes, upsample, upsample] where it is transposed
_KEYS = "KV_Q_r4.Key.bias"  # two of them a width
_STEM = "Encoder_Q.conv1.weight"  # 7x7 in the published backbone, 3x3 in the other
_ENOUGH = 0.9


def expected(arch: str, **options: object) -> dict[str, Tensor]:
    """The state dict of `build(arch, **options)` in its order, on the `meta` device.

    Raises UnknownModelError or OptionError, as `build` does.
    """
    with torch.device("meta"):
        return build(arch, **options).state_dict()


def counted_options(arch: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options that official weights show: how many joints or classes, how fine or wide it is.

    A backbone is told where it is not the published one.

    Raises UnknownModelError for a name that is not registered.
    """
    options = options_of(arch)
    found: dict[str, Any] = {}
    for option in options:
        for key in _LOGITS.get(option, ()):
            if key in weights and weights[key].ndim == 1:
                found[option] = weights[key].shape[0]
    kernel = weights.get(_FINER)
    if "upsample" in options and kernel is not None and kernel.shape[2:] in ((2, 2), (4, 4)):
        found["upsample"] = kernel.shape[-1]
    if "width" in options and _KEYS in weights and weights[_KEYS].ndim == 1:
        found["width"] = weights[_KEYS].shape[0] // 2
    stem = weights.get(_STEM)
    if "backbone" in options and stem is not None and stem.shape[2:] == (3, 3):
        found["backbone"] = efficientnet.NAME
    return found


def lookalike(weights: Mapping[str, Tensor]) -> str | None:
    """The network that nine tenths of the official keys, with their shapes, speak for."""
    shapes = {k: tuple(v.shape) for k, v in weights.items() if not k.startswith(AUX_HEAD)}
    best, name = max((_agreement(shapes, _shapes(name)), name) for name in names())
    return name if best >= _ENOUGH else None


def _agreement(a: Mapping[str, tuple[int, ...]], b: Mapping[str, tuple[int, ...]]) -> float:
    """Of all keys in either, the fraction that both have in the same shape."""
    return len(a.items() & b.items()) / len(a.keys() | b.keys())


@lru_cache(maxsize=64)
def _shapes(arch: str) -> Mapping[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in expected(arch).items()}
