"""Pictures in, tensors out, and back: what surrounds a network for one task."""

from resq_core.tasks.boxes import Box, Crop
from resq_core.tasks.keypoints import AIC14, COCO17, JHMDB15, MPII16, JointSet
from resq_core.tasks.labels import CAMVID11, CITYSCAPES19, LabelSet
from resq_core.tasks.pose import Pose, PoseTask, flip_test, next_box
from resq_core.tasks.rle import mask_from_rle, mask_to_rle
from resq_core.tasks.segmentation import SegmentationTask
from resq_core.tasks.vos import VosTask, mask_from_box, masks_from_palette

__all__ = [
    "AIC14",
    "CAMVID11",
    "CITYSCAPES19",
    "COCO17",
    "JHMDB15",
    "MPII16",
    "Box",
    "Crop",
    "JointSet",
    "LabelSet",
    "Pose",
    "PoseTask",
    "SegmentationTask",
    "VosTask",
    "flip_test",
    "mask_from_box",
    "mask_from_rle",
    "mask_to_rle",
    "masks_from_palette",
    "next_box",
]
