"""`resq experiment`: the paper's experiments on a clip of one's own."""

from __future__ import annotations

import typer

from service.commands.baselines import baselines
from service.commands.experiments.classes import classes
from service.commands.experiments.distance import distance
from service.commands.experiments.granularity import granularity
from service.commands.experiments.panels import panels
from service.commands.experiments.policy import policy
from service.commands.experiments.references import references
from service.commands.experiments.residuals import residuals
from service.commands.experiments.tradeoff import tradeoff
from service.commands.experiments.training import training

__all__ = ["experiment"]

experiment = typer.Typer(
    help="The paper's experiments on a clip of your own.", no_args_is_help=True
)
experiment.command("baselines")(baselines)
experiment.command("classes")(classes)
experiment.command("distance")(distance)
experiment.command("granularity")(granularity)
experiment.command("panels")(panels)
experiment.command("policy")(policy)
experiment.command("references")(references)
experiment.command("residuals")(residuals)
experiment.command("tradeoff")(tradeoff)
experiment.command("training")(training)
