"""Networks by name: one dictionary of builders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from resq_core.errors import OptionError, UnknownModelError
from resq_core.models.ddrnet import ddrnet23, ddrnet23_slim, ddrnet39
from resq_core.models.hrnet import (
    hrnet_w16_pose,
    hrnet_w18,
    hrnet_w18_small,
    hrnet_w18_small_v1,
    hrnet_w32_pose,
    hrnet_w48,
    hrnet_w48_pose,
)
from resq_core.models.stm import stm
from resq_core.naming import not_known

__all__ = ["architecture_of", "build", "names", "options_of"]

_MARK = "_resq_architecture"  # an attribute, so that it survives a copy of the module

_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "ddrnet23": ddrnet23,
    "ddrnet23_slim": ddrnet23_slim,
    "ddrnet39": ddrnet39,
    "hrnet_w16_pose": hrnet_w16_pose,
    "hrnet_w18": hrnet_w18,
    "hrnet_w18_small": hrnet_w18_small,
    "hrnet_w18_small_v1": hrnet_w18_small_v1,
    "hrnet_w32_pose": hrnet_w32_pose,
    "hrnet_w48": hrnet_w48,
    "hrnet_w48_pose": hrnet_w48_pose,
    "stm": stm,
}


def names() -> tuple[str, ...]:
    """The names that `build` accepts, sorted."""
    return tuple(sorted(_BUILDERS))


def options_of(name: str) -> tuple[str, ...]:
    """The options that `build` accepts for a network.

    Raises UnknownModelError for a name that is not registered.
    """
    return tuple(inspect.signature(_builder(name)).parameters)


def _builder(name: str) -> Callable[..., nn.Module]:
    builder = _BUILDERS.get(name)
    if builder is None:
        raise UnknownModelError(not_known("no network is", name, names()))
    return builder


def build(name: str, **options: object) -> nn.Module:
    """A float network in training mode with fresh weights.

    Options are the builder's own: every network for segmentation takes `num_classes` (1 to
    10,000, default 19), every DDRNet also `aux_head` (default False) and `upsample` (logits at
    1/8 of the input, or 2 or 4 times as fine; default 1), every network for pose `num_joints`
    (1 to 1,000, default 17), and `stm` a `width` (1 to 64, the default) and a `backbone`
    (`resnet50`, the default, or `efficientnet_lite0`).

    Raises UnknownModelError for a name that is not registered, and OptionError for an option
    that the network does not have or whose value is out of range.
    """
    builder, known = _builder(name), options_of(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise OptionError(
            f"{name} has no option {', '.join(unknown)}; "
            f"its options are: {', '.join(known) or 'none'}"
        )
    module = builder(**options)
    setattr(module, _MARK, {"name": name, "options": dict(options)})
    return module


def architecture_of(module: nn.Module) -> dict[str, Any] | None:
    """The `name` and `options` that `build` made a module with, or None if it did not make it."""
    return getattr(module, _MARK, None)
