from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import resq_core
from resq_core import Precision
from resq_core.encodings import Granularity
from resq_core.errors import InputError, OptionError
from resq_core.evaluation import ConfusionMatrix
from resq_core.experiments import Trial, float_classes, recalibrated
from resq_core.experiments.steps import (
    frame_precision,
    hold_precision,
    keyframe_precision,
    residual_precision,
)
from resq_core.tasks import SegmentationTask
from resq_core.tasks.pictures import Picture

SIZE = (12, 16)
PRECISION = Precision.parse("W8A8->W4A4")


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    generator = np.random.default_rng(0)
    return list(generator.integers(0, 256, (5, *SIZE, 3), np.uint8))


@pytest.fixture(scope="module")
def trial(pictures: list[Picture]) -> Trial:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1)).eval()
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    task = SegmentationTask(("a", "b", "c"), colours, SIZE, (0.5,) * 3, (0.25,) * 3)
    model = resq_core.quantize(network, PRECISION, backend="reference")
    clip = torch.cat([task.preprocess(picture) for picture in pictures])
    model.calibrate([clip], samples=4, also=["W4A4"])
    samples = [(picture, float_classes(model, task, picture)) for picture in pictures]
    return Trial(model, task, samples, 255)


def test_the_float_network_agrees_with_itself(trial: Trial) -> None:
    calls: list[int] = []
    score = trial.score(trial.float(), tell=lambda: calls.append(1))
    assert (score.miou, score.frames, len(calls)) == (1, 5, 5)
    macs = sum(trial.model.macs(torch.zeros(1, 3, *SIZE)).values())
    assert score.bops == macs * 32 * 32


def test_every_way_runs_at_what_it_is_named(trial: Trial) -> None:
    macs = sum(trial.model.macs(torch.zeros(1, 3, *SIZE)).values())
    frame, hold = trial.frame(PRECISION), trial.hold(PRECISION, 5)
    resq = trial.resq(PRECISION, 5, reference="keyframe")
    named = [(run.method, run.precision, run.period) for run in (frame, hold, resq)]
    assert named == [
        ("frame quantization", "W4A4", 1),
        ("hold", "W8A8->W4A0", 5),
        ("ResQ", "W8A8->W4A4", 5),
    ]
    spent = [trial.score(run).bops for run in (frame, hold, resq)]
    assert spent == [macs * 16, macs * 64 / 5, macs * (64 + 4 * 16) / 5]
    assert trial.at(PRECISION) is trial.at(PRECISION)


def test_frames_between_keyframes_alone(trial: Trial) -> None:
    found = trial.without_keyframes(2).score(trial.frame(PRECISION))
    step, matrix = trial.frame(PRECISION).open_step(), ConfusionMatrix(3)
    for i, (picture, label) in enumerate(trial.samples):
        logits = step(trial.task.preprocess(picture)).logits
        if i % 2:
            matrix.update(trial.task.postprocess(logits, SIZE), label)
    assert (found.miou, found.frames) == (matrix.miou(), 5)
    with pytest.raises(OptionError, match="period is 1"):
        trial.without_keyframes(1)


def test_the_precisions_beside_one() -> None:
    dynamic = residual_precision("W8A6->W4A{0,3,5}")
    wanted = ["W8A6", "W4A5", "W8A6->W4A0"]
    beside = (keyframe_precision, frame_precision, hold_precision)
    assert [str(of(dynamic)) for of in beside] == wanted
    with pytest.raises(OptionError, match="residual frames"):
        residual_precision("W8A8")


@pytest.mark.parametrize("kind", list(Granularity))
def test_another_granularity_is_calibrated_as_by_hand(
    trial: Trial, pictures: list[Picture], kind: Granularity
) -> None:
    clip = [trial.task.preprocess(picture) for picture in pictures]
    found = recalibrated(trial.model, kind, [PRECISION], [clip], samples=3)
    by_hand = resq_core.quantize(trial.model.module, PRECISION, granularity=kind)
    by_hand.calibrate([clip], samples=3)
    assert found.encodings == by_hand.encodings
    assert found.options == trial.model.options
    with pytest.raises(OptionError, match="no precision"):
        recalibrated(trial.model, kind, [], [clip])
    with pytest.raises(InputError, match="NaN"):
        recalibrated(trial.model, kind, [PRECISION], [[x * float("nan") for x in clip]])
