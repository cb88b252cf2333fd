"""Labelled video on disk, in the layouts that its makers chose."""

from resq_core.evaluation.datasets.camvid import CamVid, camvid_drives
from resq_core.evaluation.datasets.cityscapes import CityscapesStills, cityscapes_snippets
from resq_core.evaluation.datasets.clips import (
    DataSet,
    Joints,
    LabelledClip,
    ObjectMasks,
    PictureFiles,
    Protocol,
)
from resq_core.evaluation.datasets.davis import davis_clips
from resq_core.evaluation.datasets.jhmdb import jhmdb_clips

__all__ = [
    "CamVid",
    "CityscapesStills",
    "DataSet",
    "Joints",
    "LabelledClip",
    "ObjectMasks",
    "PictureFiles",
    "Protocol",
    "camvid_drives",
    "cityscapes_snippets",
    "davis_clips",
    "jhmdb_clips",
]
