"""ResQ: residual quantization for video perception.

>>> import resq_core
>>> q = resq_core.quantize(model, "W8A8->W8A{0,4,8}", period=8)   # doctest: +SKIP
>>> q.calibrate(clips)                                            # doctest: +SKIP
>>> stream = q.stream()                                           # doctest: +SKIP
>>> result = stream.step(frame)                                   # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resq_core import errors, models
    from resq_core.model import QuantizedModel, load, quantize
    from resq_core.precision import Precision
    from resq_core.stream import StepResult, Stream

__all__ = [
    "Precision",
    "QuantizedModel",
    "StepResult",
    "Stream",
    "errors",
    "load",
    "models",
    "quantize",
]

# imported when first asked for: the command line completes and explains itself without torch
_HOMES = {
    "Precision": "precision",
    "QuantizedModel": "model",
    "StepResult": "stream",
    "Stream": "stream",
    "load": "model",
    "quantize": "model",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"resq_core.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"resq_core.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
