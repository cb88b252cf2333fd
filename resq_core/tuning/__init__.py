"""The period and threshold that a clip allows, within a bound on accuracy, BOPs or time."""

from resq_core.tuning.bench import Bench, Opener, Point
from resq_core.tuning.factors import (
    LayerTuning,
    Measures,
    fit_factors,
    group_layers,
    layer_runs,
    tune_layers,
)
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
    "MOST_PER_PERIOD",
    "Bench",
    "Curve",
    "Goal",
    "Judge",
    "LabelledMiou",
    "LayerTuning",
    "Limit",
    "MaskAgreement",
    "Measures",
    "Opener",
    "PixelAgreement",
    "Point",
    "PoseAgreement",
    "fit_factors",
    "group_layers",
    "layer_runs",
    "periods_for",
    "search",
    "tune_layers",
]
