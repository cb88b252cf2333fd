"""One frame's result, as a client's program wants it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.client.instances import Instances, instances_of_mask, instances_of_pose
from service.messages import ResultMeta, Started

if TYPE_CHECKING:
    import supervision

__all__ = ["FrameResult"]


@dataclass(frozen=True, slots=True, eq=False)
class FrameResult:
    """What the server says of one frame.

    Attributes:
        frame: the picture itself, uint8 [H, W, 3] RGB, as it was before it was sent.
        mask: class or object ids uint8 [H, W]; None of poses, or where not asked for.
        keypoints: float32 [J, 3], x, y in pixels and a score of each joint; None of masks.
        bit_map: bits spent, float32 [h, w], 0 to 8; None where not asked for.
        latency_ms: from taking the frame from its source to this result.
        meta: every figure, as on the wire.
        started: the stream's options in force, class names and palette.
    """

    frame: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    keypoints: NDArray[np.float32] | None
    bit_map: NDArray[np.float32] | None
    latency_ms: float
    meta: ResultMeta
    started: Started

    @property
    def index(self) -> int:
        """Place among the results, from 0."""
        return self.meta.index

    @property
    def pts_us(self) -> int:
        """Time of the frame in its source, microseconds."""
        return self.meta.pts_us

    @property
    def is_anchor(self) -> bool:
        """It ran as a ResQ keyframe."""
        return self.meta.is_anchor

    @property
    def saving(self) -> float:
        """1 - bit operations / those of a W8A8 frame, the policy's own included; 0 for keyframes,
        or a little below."""
        return self.meta.bops.saving

    @property
    def mean_bits(self) -> float:
        """Activation bits spent, 0 to 8."""
        return self.meta.mean_bits

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """Of a pose: x, y, width and height of where it was looked for, in pixels."""
        return self.meta.box

    def instances(self) -> Instances:
        """Classes, objects or the person, one by one, as arrays.

        Raises:
            ValueError: the stream was opened without masks.
        """
        if self.keypoints is not None and self.box is not None:
            return instances_of_pose(self.keypoints, self.box)
        if self.mask is None:
            raise ValueError("the stream has no masks; expected one opened without mask=False")
        return instances_of_mask(self.mask, self.started.classes, self.started.task == "vos")

    def detections(self) -> supervision.Detections:
        """The same for `supervision`, with the names in `data["class_name"]`.

        Raises:
            ModuleNotFoundError: `supervision` is not installed.
            ValueError: as `instances`.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "detections() needs `pip install supervision`; instances() gives the same as arrays"
            ) from error
        found = self.instances()
        return supervision.Detections(
            xyxy=found.xyxy,
            mask=found.mask,
            class_id=found.class_id,
            confidence=found.confidence,
            tracker_id=found.tracker_id,
            data={"class_name": found.class_name},
        )
