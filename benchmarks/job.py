"""What the processes of one comparison share: a folder with frames, networks and outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Job"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """One comparison; written once by the process that leads, read by the others.

    folder: of frames and outputs. cache: of exported and quantized networks. shape: of one input,
    (1, 3, H, W). frames: how many. threads: of every runtime. period, reference, threshold,
    factors, max_active, backend: of our stream; None takes the model's own.
    """

    folder: str
    cache: str
    shape: tuple[int, ...]
    frames: int
    threads: int
    period: int
    reference: str
    threshold: float | None
    factors: Mapping[str, float] | None
    max_active: float
    backend: str | None

    @classmethod
    def read(cls, folder: str) -> Job:
        """The job that was written to a folder."""
        values = json.loads((Path(folder) / "job.json").read_text("utf-8"))
        return cls(**values | {"shape": tuple(values["shape"])})

    def write(self, frames: Array) -> None:
        """Write the job and its frames, float32 [N, 3, H, W]."""
        frames.tofile(Path(self.folder) / "frames.f32")
        (Path(self.folder) / "job.json").write_text(json.dumps(asdict(self)), "utf-8")

    def frame(self, index: int) -> Array:
        """One frame, in memory of its own: float32 [1, 3, H, W]."""
        count = int(np.prod(self.shape))
        path = Path(self.folder) / "frames.f32"
        values = np.fromfile(path, np.float32, count, offset=4 * count * index)
        return values.reshape(self.shape)

    def keep(self, runtime: str, output: Array) -> None:
        """Add the output of a runtime's next frame."""
        with self._outputs(runtime).open("ab") as file:
            np.ascontiguousarray(output).tofile(file)

    def outputs(self, runtime: str, shape: Sequence[int]) -> Array:
        """All outputs that were kept, float32 [N, *shape]."""
        return np.fromfile(self._outputs(runtime), np.float32).reshape(-1, *shape)

    def _outputs(self, runtime: str) -> Path:
        return Path(self.folder) / f"{runtime}.f32"
