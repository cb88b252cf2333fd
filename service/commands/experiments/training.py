"""`resq experiment training`: calibrated against trained models (Tab. 4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from resq_core.errors import OptionError
from service.charts import Bars, draw_bars
from service.commands.experiments.options import ClipPath, Frames, Labels, ModelName, Out
from service.commands.experiments.report import percent, report
from service.commands.shared import Json, frames_bar

if TYPE_CHECKING:
    from resq_core import QuantizedModel
    from resq_core.experiments import Trial
    from resq_core.zoo import ModelCard

__all__ = ["training"]


def training(
    clip: ClipPath,
    trained: Annotated[
        list[str],
        typer.Argument(help="What resq train wrote: folders, or names of RESQ_MODELS_DIR."),
    ],
    labels: Labels = None,
    model: ModelName = "street",
    period: Annotated[int, typer.Option(help="T.", min=2)] = 3,
    frames: Frames = 32,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Tab. 4: PTQ against QAT: each trained model beside MODEL, calibrated at its precision."""
    from service.commands.experiments.setting import open_setting, score

    models = [_trained(name) for name in trained]
    with frames_bar(Console(stderr=True)) as bar:
        setting = open_setting(clip, labels, model, frames, bar)
        for card, _ in models:
            if card.classes != setting.card.classes:
                raise OptionError(
                    f"{card.name} has other classes than {model}; expected what was trained from it"
                )
        (reference,) = score(setting.trial, [setting.trial.float()], bar)
        pairs = [_pair(setting.trial, card, other, period, bar) for card, other in models]
    content: dict[str, Any] = {**setting.facts, "period": period, "float": reference}
    content["models"] = pairs
    table = Table("precision", "trained model", f"{setting.measure}, PTQ", "QAT", "gain")
    for pair in pairs:
        a, b = pair["calibrated"]["miou"], pair["trained"]["miou"]
        table.add_row(
            pair["precision"], pair["name"], percent(a), percent(b), f"{100 * (b - a):+.2f}"
        )
    table.caption = f"float: {percent(reference['miou'])}"
    chart = Bars(
        f"{setting.measure}, %",
        [f"{pair['precision']}\n{pair['name']}" for pair in pairs],
        [
            ("calibrated (PTQ)", [100 * pair["calibrated"]["miou"] for pair in pairs]),
            ("trained (QAT)", [100 * pair["trained"]["miou"] for pair in pairs]),
        ],
        zoom=True,
    )
    report("training", content, table, out, as_json, lambda path: draw_bars(chart, path))


def _trained(name: str) -> tuple[ModelCard, QuantizedModel]:
    from service.commands.experiments.setting import open_model

    path = Path(name)
    if path.is_dir():
        path = path.resolve()
        return open_model(path.name, path=path.parent)
    return open_model(name)


def _pair(
    trial: Trial, card: ModelCard, other: QuantizedModel, period: int, bar: Any
) -> dict[str, Any]:
    """The scores of both at the trained model's own precision."""
    from service.commands.experiments.setting import score

    precision = other.precision
    if precision.is_frame:
        raise OptionError(f"{card.name} is {precision}; expected one with residual frames")
    beside = trial.but(other, card.segmentation())
    runs = (trial.resq(precision, period), beside.resq(precision, period))
    (calibrated,), (trained,) = score(trial, runs[:1], bar), score(beside, runs[1:], bar)
    return {
        "name": card.name,
        "precision": str(precision),
        "calibrated": calibrated,
        "trained": trained,
    }
