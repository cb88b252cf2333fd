"""Pictures in, tensors out, and back: what surrounds a network for one task."""

from resq_core.tasks.labels import CAMVID11, CITYSCAPES19, LabelSet
from resq_core.tasks.segmentation import SegmentationTask

__all__ = ["CAMVID11", "CITYSCAPES19", "LabelSet", "SegmentationTask"]
