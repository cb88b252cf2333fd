"""What every task's pipeline offers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resq_core.bops import Totals
from resq_core.precision import Precision
from resq_core.stream import StepResult, Stream, StreamOptions

__all__ = ["Picture", "Pipeline", "StreamPipeline"]

Picture = NDArray[np.uint8]
"""uint8 [H, W, 3] RGB."""


class Pipeline(Protocol):
    """One video stream of one task. One thread at a time uses it; models behind it are shared."""

    @property
    def precision(self) -> Precision:
        """The bits that it runs at."""
        ...

    @property
    def options(self) -> StreamOptions:
        """Period, reference and policy in force for the next frame."""
        ...

    @property
    def totals(self) -> Totals:
        """Running sums over all frames so far."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of state that it holds."""
        ...

    def step(
        self,
        image: Picture,
        bit_map: bool = False,
        layers: bool = False,
        anchor: str | None = None,
    ) -> StepResult:
        """Run the next frame; the result's `output` is the task's prediction.

        Raises:
            InputError: the frame is unusable; the stream goes on as if it had not come.
        """
        ...

    def update(self, period: int | None = None, threshold: float | None = None) -> None:
        """Change options from the next frame on.

        Raises:
            OptionError: out of range; nothing is changed then.
        """
        ...

    def close(self) -> None:
        """Free the state at once; later steps raise `StreamClosedError`."""
        ...


class StreamPipeline:
    """What pipelines around one stream share: everything but `step`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def precision(self) -> Precision:
        """The bits that it runs at."""
        return self._stream.precision

    @property
    def options(self) -> StreamOptions:
        """Period, reference and policy in force for the next frame."""
        return self._stream.options

    @property
    def totals(self) -> Totals:
        """Running sums over all frames so far."""
        return self._stream.totals

    @property
    def nbytes(self) -> int:
        """Bytes of state that it holds."""
        return self._stream.nbytes

    def update(self, period: int | None = None, threshold: float | None = None) -> None:
        """Change options from the next frame on; OptionError out of range, and no change."""
        self._stream.update(period=period, threshold=threshold)

    def close(self) -> None:
        """Free the state at once; later steps raise `StreamClosedError`."""
        self._stream.close()
