"""What each network's weights look like: their keys and shapes, without memory for values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from resq_core.models.key_names import AUX_HEAD
from resq_core.models.registry import build, names, options_of

__all__ = ["counted_options", "expected", "lookalike"]

_LOGITS = {  # whose rows an option counts
    "num_joints": ("final_layer.weight",),
    "num_classes": ("final_layer.conv2.weight", "last_layer.3.weight"),
}
_ENOUGH = 0.9


def expected(arch: str, **options: object) -> dict[str, Tensor]:
    """The state dict of `build(arch, **options)` in its order, on the `meta` device.

    Raises UnknownModelError or OptionError, as `build` does.
    """
    with torch.device("meta"):
        return build(arch, **options).state_dict()


def counted_options(arch: str, weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The network's number of joints or classes, read from official weights where they show it.

    Raises UnknownModelError for a name that is not registered.
    """
    found = {}
    for option in options_of(arch):
        for key in _LOGITS.get(option, ()):
            if key in weights and weights[key].ndim == 4:
                found[option] = weights[key].shape[0]
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
