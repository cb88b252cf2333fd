"""The same network with weight scales of another granularity (Tab. 5)."""

from __future__ import annotations

from collections.abc import Sequence

from resq_core.backends import Backend
from resq_core.calibrate import DEFAULT_SAMPLES, Clip, Progress
from resq_core.encodings import Granularity
from resq_core.errors import OptionError
from resq_core.model import QuantizedModel, quantize
from resq_core.precision import Precision

__all__ = ["recalibrated"]


def recalibrated(
    model: QuantizedModel,
    granularity: Granularity,
    precisions: Sequence[Precision],
    clips: Sequence[Clip],
    samples: int = DEFAULT_SAMPLES,
    backend: Backend = Backend.AUTO,
    progress: Progress | None = None,
) -> QuantizedModel:
    """Calibrate a model's float network anew, with its options and grid.

    Args:
        model: whose network.
        granularity: weight scales per `tensor` or per output `channel`.
        precisions: to calibrate for, at least one; the result is at the first.
        clips: preprocessed frames, as `QuantizedModel.calibrate` takes them.
        samples: c of Eq. 8, pairs of frames.
        backend: what shall run the result.
        progress: called with a fraction from 0 to 1.

    Raises:
        OptionError: there is no precision.
        CalibrationError, InputError: the clips cannot be used.
    """
    if not precisions:
        raise OptionError("no precision to calibrate for; expected at least one")
    options = model.options
    first, *also = precisions
    result = quantize(
        model.module,
        first,
        period=options.period,
        reference=options.reference,
        policy=options.policy.form,
        threshold=options.policy.threshold,
        granularity=granularity,
        grid=model.grid,
        backend=backend,
    )
    result.calibrate(clips, samples=samples, also=also, progress=progress)
    return result
