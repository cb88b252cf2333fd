"""The paper's experiments, on any network and clip."""

from resq_core.experiments.granularity import recalibrated
from resq_core.experiments.policy_maps import LayerBits, bit_shares, sequence_bits
from resq_core.experiments.residuals import LayerStatistics, residual_statistics
from resq_core.experiments.trial import Run, Trial, float_classes

__all__ = [
    "LayerBits",
    "LayerStatistics",
    "Run",
    "Trial",
    "bit_shares",
    "float_classes",
    "recalibrated",
    "residual_statistics",
    "sequence_bits",
]
