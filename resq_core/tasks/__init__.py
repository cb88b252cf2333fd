"""Pictures in, tensors out, and back: what surrounds a network for one task."""

from resq_core.tasks.labels import CAMVID11, CITYSCAPES19, LabelSet
from resq_core.tasks.rle import mask_from_rle, mask_to_rle
from resq_core.tasks.segmentation import SegmentationTask
from resq_core.tasks.vos import VosTask, mask_from_box, masks_from_palette

__all__ = [
    "CAMVID11",
    "CITYSCAPES19",
    "LabelSet",
    "SegmentationTask",
    "VosTask",
    "mask_from_box",
    "mask_from_rle",
    "mask_to_rle",
    "masks_from_palette",
]
