"""The paper's experiments, on any network and clip."""

from resq_core.experiments.residuals import LayerStatistics, residual_statistics

__all__ = ["LayerStatistics", "residual_statistics"]
