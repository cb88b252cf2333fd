"""A device that this machine does not have, played by its CPU.

Tensors say that they are on `meta`, and hold real values. An op that mixes them with tensors of
the CPU fails as it would on a GPU, and what does not fail is computed, so results can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from resq_core import graph_cache
from resq_core.pipelines import quantized_stm

ELSEWHERE = torch.device("meta")

_aten = torch.ops.aten
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default}


class Moved(Tensor):
    """A tensor on `ELSEWHERE` whose values are in `own`."""

    own: Tensor

    @staticmethod
    def __new__(cls, own: Tensor) -> Moved:
        made: Moved = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            own.size(),
            strides=own.stride(),
            storage_offset=own.storage_offset(),
            dtype=own.dtype,
            device=ELSEWHERE,
        )
        made.own = own
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{func} outside `elsewhere()`")


def _two_devices(func: Any, args: tuple[Any, ...], here: list[Tensor]) -> bool:
    """Whether a GPU would refuse an op on its own tensors and `here`, those of the CPU."""
    if func is _aten.copy_.default:
        return False
    if func in _INDEXED:  # indices may come from the CPU; what they are of, and values, may not
        return any(x is given for x in here for given in (args[0], *args[2:3]))
    return bool(here)


class _Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        moved = [x for x in tensors if isinstance(x, Moved)]
        here = [x for x in tensors if not isinstance(x, Moved) and x.ndim]
        assert not any(x.is_meta for x in here), f"{func}: a tensor without values"
        if moved and _two_devices(func, args, here):
            raise RuntimeError(f"{func} on tensors of two devices: {[x.shape for x in here]} here")
        goes = bool(moved)
        if kwargs.get("device") is not None:
            goes = torch.device(kwargs["device"]).type == ELSEWHERE.type
            kwargs["device"] = torch.device("cpu")
        args, kwargs = pytree.tree_map_only(Moved, lambda x: x.own, (args, kwargs))
        result = func(*args, **kwargs)
        if not goes:
            return result
        known = {id(x.own): x for x in moved}  # what is written in place is returned itself
        return pytree.tree_map_only(
            Tensor, lambda x: known[id(x)] if id(x) in known else Moved(x), result
        )


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Whatever asks for a device gets `ELSEWHERE`, which works in here."""

    def captured(*given: Any) -> Any:
        with _disable_current_modes():  # it traces on the CPU
            return capture(*given)

    def tensor(values: Any, device: Any = None, **given: Any) -> Tensor:
        made = make(values, **given)  # on `meta` it would have no values
        return made if device is None else made.to(device)

    def around(*given: Any) -> Any:
        with _disable_current_modes():  # it makes an empty network on the true `meta` first
            return build(*given)

    capture: Callable[..., Any] = graph_cache.capture
    build: Callable[..., Any] = quantized_stm._around
    make: Callable[..., Tensor] = torch.tensor
    with (
        mock.patch.object(graph_cache, "capture", captured),
        mock.patch.object(quantized_stm, "_around", around),
        mock.patch.object(torch, "tensor", tensor),
        mock.patch("resq_core.model.checked_device", return_value=ELSEWHERE),
        _Elsewhere(),
    ):
        yield ELSEWHERE
