"""ResQ: residual quantization for video perception.

>>> import resq_core
>>> q = resq_core.quantize(model, "W8A8->W8A{0,4,8}", period=8)   # doctest: +SKIP
>>> q.calibrate(clips)                                            # doctest: +SKIP
>>> stream = q.stream()                                           # doctest: +SKIP
>>> result = stream.step(frame)                                   # doctest: +SKIP
"""

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
