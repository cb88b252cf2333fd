"""Where a network runs: the CPU, or a GPU of this machine."""

from __future__ import annotations

import torch

from resq_core.errors import OptionError

__all__ = ["checked_device"]

_EXPECTED = "cpu, auto, cuda or cuda:N"


def checked_device(name: str) -> torch.device:
    """The device of that name.

    Args:
        name: `cpu`; `cuda`, the first GPU; `cuda:N`, the one of that number from 0; or `auto`,
            the first GPU where torch can use one, else the CPU.

    Raises:
        OptionError: another name, or a GPU that torch cannot use here; it says why.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not (number.isascii() and number.isdecimal())):
        raise OptionError(f"device is {name!r}; expected {_EXPECTED}")
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        raise OptionError(
            f"device is {name}; torch {torch.__version__} was built without CUDA: expected cpu, "
            "or a build of torch with CUDA"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise OptionError(f"device is {name}; torch finds no GPU it can use here: expected cpu")
    if int(number or 0) >= count:
        known = ", ".join(f"cuda:{i}" for i in range(count))
        raise OptionError(f"device is {name}; this machine has {known}, and cpu")
    return torch.device("cuda", int(number or 0))
