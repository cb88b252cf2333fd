"""The period and threshold that a clip allows, within a bound on accuracy, BOPs or time."""

from resq_core.tuning.bench import Bench, Opener, Point
from resq_core.tuning.factors import LAYER_RUNS, LayerTuning, fit_factors, group_layers, tune_layers
from resq_core.tuning.judges import (
    Judge,
    LabelledMiou,
    MaskAgreement,
    PixelAgreement,
    PoseAgreement,
)
from resq_core.tuning.search import (
    DEFAULT_PERIODS,
    MOST_PER_PERIOD,
    Curve,
    Goal,
    Limit,
    periods_for,
    search,
)

__all__ = [
    "DEFAULT_PERIODS",
    "LAYER_RUNS",
    "MOST_PER_PERIOD",
    "Bench",
    "Curve",
    "Goal",
    "Judge",
    "LabelledMiou",
    "LayerTuning",
    "Limit",
    "MaskAgreement",
    "Opener",
    "PixelAgreement",
    "Point",
    "PoseAgreement",
    "fit_factors",
    "group_layers",
    "periods_for",
    "search",
    "tune_layers",
]
