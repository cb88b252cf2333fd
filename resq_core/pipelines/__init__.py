"""A stream and what surrounds its network: pictures in, predictions out, one class per task."""

from resq_core.pipelines.base import Pipeline
from resq_core.pipelines.pose import PosePipeline
from resq_core.pipelines.segmentation import SegmentationPipeline

__all__ = ["Pipeline", "PosePipeline", "SegmentationPipeline"]
