"""A stream and what surrounds its network: pictures in, predictions out, one class per task."""

from resq_core.pipelines.base import Pipeline
from resq_core.pipelines.float_vos import FloatVos
from resq_core.pipelines.pose import PosePipeline
from resq_core.pipelines.quantized_stm import QuantizedStm, quantize_stm
from resq_core.pipelines.segmentation import SegmentationPipeline
from resq_core.pipelines.stm_clips import VosClip
from resq_core.pipelines.vos import VosPipeline, VosResult

__all__ = [
    "FloatVos",
    "Pipeline",
    "PosePipeline",
    "QuantizedStm",
    "SegmentationPipeline",
    "VosClip",
    "VosPipeline",
    "VosResult",
    "quantize_stm",
]
