"""Networks by name: one dictionary of builders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from resq_core.errors import OptionError, UnknownModelError
from resq_core.models.ddrnet import ddrnet23, ddrnet23_slim, ddrnet39

__all__ = ["architecture_of", "build", "names"]

_MARK = "_resq_architecture"  # an attribute, so that it survives a copy of the module

_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "ddrnet23": ddrnet23,
    "ddrnet23_slim": ddrnet23_slim,
    "ddrnet39": ddrnet39,
}


def names() -> tuple[str, ...]:
    """The names that `build` accepts, sorted."""
    return tuple(sorted(_BUILDERS))


def build(name: str, **options: object) -> nn.Module:
    """A float network in training mode with fresh weights.

    Options are the builder's own: every DDRNet takes `num_classes` (1 to 10,000, default 19)
    and `aux_head` (default False).

    Raises UnknownModelError for a name that is not registered, and OptionError for an option
    that the network does not have or whose value is out of range.
    """
    builder = _BUILDERS.get(name)
    if builder is None:
        raise UnknownModelError(f"no network is called {name!r}; there are: {', '.join(names())}")
    known = inspect.signature(builder).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise OptionError(
            f"{name} has no option {', '.join(unknown)}; its options are: {', '.join(known)}"
        )
    module = builder(**options)
    setattr(module, _MARK, {"name": name, "options": dict(options)})
    return module


def architecture_of(module: nn.Module) -> dict[str, Any] | None:
    """The `name` and `options` that `build` made a module with, or None if it did not make it."""
    return getattr(module, _MARK, None)
