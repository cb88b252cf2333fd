"""What ResQ is compared with, on the same networks: each a `Step` for `evaluate_clip`."""

from resq_core.rivals.flow import DisFlow
from resq_core.rivals.frame_levels import FrameLevels, agreement, oracle_step, replay_step, shuffled
from resq_core.rivals.mixed import mixed_step
from resq_core.rivals.plan import Row, Settings, plan
from resq_core.rivals.skip_conv import SkipConv
from resq_core.rivals.warping import FeatureWarping, warp

__all__ = [
    "DisFlow",
    "FeatureWarping",
    "FrameLevels",
    "Row",
    "Settings",
    "SkipConv",
    "agreement",
    "mixed_step",
    "oracle_step",
    "plan",
    "replay_step",
    "shuffled",
    "warp",
]
