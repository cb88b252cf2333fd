"""`resq eval` on small data sets of every layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import resq_core
from resq_core import QuantizedModel
from resq_core.backends import Backend
from resq_core.errors import InputError, OptionError
from resq_core.evaluation import EvaluationState
from resq_core.tasks import CAMVID11, CITYSCAPES19, LabelSet
from resq_core.zoo import ModelCard, Shelf
from service.cli import app
from service.config import ConfigError
from service.encoder import VideoWriter
from tests.resq_core.evaluation.layouts import (
    SIZE,
    joints,
    picture,
    write_camvid,
    write_cityscapes,
    write_jhmdb,
    write_joints,
)
from tests.service.conftest import CARD, POSE_CARD


class Red(nn.Module):
    """One class where red stands out, another elsewhere, out of many."""

    def __init__(self, classes: int, red: int, other: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, classes, 1)
        with torch.no_grad():
            self.look.weight.zero_()
            self.look.weight[red] = torch.tensor([1.0, -0.5, -0.5]).view(3, 1, 1)
            assert self.look.bias is not None
            self.look.bias.fill_(-9)
            self.look.bias[red], self.look.bias[other] = 0, 1.0

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.look(x)
        return result


class Figure(nn.Module):
    """Heatmaps of 15 joints around where the picture is reddest, on a grid of three by three."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 15, 12, stride=4, padding=4)
        with torch.no_grad():
            assert self.look.bias is not None
            self.look.bias.zero_()
            self.look.weight.zero_()
            for k in range(15):
                x, y = 4 * (k % 3), 4 * (k // 3 % 3)
                self.look.weight[k, 0, y : y + 4, x : x + 4] = 0.05
                self.look.weight[k, 1:, y : y + 4, x : x + 4] = -0.03

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.look(x)
        return result


def calibrated(network: nn.Module, *precisions: str) -> QuantizedModel:
    model = resq_core.quantize(network, precisions[0], period=4)
    torch.manual_seed(0)
    model.calibrate([2 * torch.rand(8, 3, *SIZE).mul(2).sub(1)], samples=6, also=precisions[1:])
    return model


def card(name: str, labels: LabelSet) -> ModelCard:
    own = {"classes": labels.classes, "palette": labels.palette, "ignore_index": 255}
    return CARD.model_copy(update={"name": name, **own})


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """Models of three tasks and label sets; nobody changes them."""
    both = ("W8A8->W8A4", "W8A8->W8A{0,4,8}")
    figure = POSE_CARD.model_copy(update={"name": "figure"})
    return {
        "drive": (card("drive", CAMVID11), calibrated(Red(11, 8, 3), *both, "W8A4")),
        "city": (card("city", CITYSCAPES19), calibrated(Red(19, 13, 0), *both)),
        "figure": (figure, calibrated(Figure(), *both[::-1])),
    }


@pytest.fixture
def models(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """A folder of models; what loads is what this dictionary holds."""
    offered = dict(small)
    folder = tmp_path / "models"
    for name, (own, _) in offered.items():
        shelve(folder, name, own)
    monkeypatch.setenv("RESQ_MODELS_DIR", str(folder))

    def load(shelf: Shelf, name: str, backend: Backend, device: str) -> Any:
        return offered[name][1]

    monkeypatch.setattr("service.local_engine._load", load)
    return offered


def shelve(folder: Path, name: str, card: ModelCard) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / f"{name}.resq").write_text(name)
    (folder / name / "card.json").write_text(card.model_dump_json())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def evaluated(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_frame_quantization_alone(models: dict[str, Any], tmp_path: Path) -> None:
    root = write_camvid(tmp_path / "data", {"0001TP": 4})
    arguments = ("camvid", root, "--model", "drive", "--precision", "W8A4", "--period", 2)
    result = evaluated(*arguments)
    assert result["frame_precision"] == result["precision"] == "W8A4"
    assert {"hold", "keyframe", "resq"}.isdisjoint(result)
    assert (result["frame"]["mean_bits"], result["frame"]["anchors"]) == (4, 4)
    assert result["float"]["miou"] == 1
    told = run(*arguments)
    assert told.exit_code == 0
    assert "frames after the keyframe" not in told.output


def test_camvid(models: dict[str, Any], tmp_path: Path) -> None:
    root = write_camvid(tmp_path / "data", {"0001TP": 7, "short": 2})
    result = evaluated("camvid", root, "--model", "drive", "--period", 3)
    assert (result["split"], result["truth"], result["clips"]) == ("test", "labels", 1)
    assert result["skipped"] == [
        {"clip": "short", "reason": "short has 2 frames; expected at least T = 3"}
    ]
    assert result["frame_precision"] == "W8A4"
    assert list(result["float"]["iou"]) == list(CAMVID11.classes)
    assert result["float"]["miou"] == 1
    assert result["hold"]["by_distance"] == sorted(result["hold"]["by_distance"], reverse=True)
    assert result["hold"]["miou"] < result["resq"]["miou"] <= 1
    for name, bits, anchors in (("float", 32, 7), ("keyframe", 8, 7), ("frame", 4, 7)):
        row = result[name]
        assert (row["mean_bits"], row["frames"], row["anchors"]) == (bits, 7, anchors)
    resq = result["resq"]
    assert (resq["residual_bits"], resq["anchors"]) == (4, 3)
    assert resq["bops"] == pytest.approx(result["keyframe"]["bops"] * (3 * 8 + 4 * 4) / (7 * 8))
    assert result["float"]["bops"] == result["keyframe"]["bops"] * 16


def test_cityscapes_at_every_position(models: dict[str, Any], tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "data", {"ulm_000001": 19, "bonn_000000": 300})
    result = evaluated("cityscapes", root, "--model", "city", "--period", 4)
    assert (result["clips"], result["skipped"]) == (2, [])
    assert (result["float"]["frames"], result["resq"]["frames"]) == (2, 8)
    assert result["resq"]["anchors"] == 2
    near = result["hold"]["by_distance"]
    assert len(near) == 4
    assert near[0] > near[1] > near[2] > near[3] > 0.8
    assert result["hold"]["miou_over_distances"] == pytest.approx(sum(near) / 4)
    assert result["float"]["iou"]["car"] == 1
    done = run("cityscapes", root, "--model", "city", "--period", 7)
    assert isinstance(done.exception, InputError)
    assert "no clip of split val can be scored: bonn_000000_000300 has 6" in str(done.exception)


def test_jhmdb_is_the_mean_of_its_splits(models: dict[str, Any], tmp_path: Path) -> None:
    root = write_jhmdb(
        tmp_path / "data", {"run/a": (6, "212"), "run/b": (4, "221"), "sit/c": (5, "122")}
    )
    points = joints(5)
    points[:, 3] = -5
    write_joints(root, "sit/c", points)
    options = ("--model", "figure", "--precision", "W8A8->W8A{0,4,8}", "--period", 3)
    result = evaluated("jhmdb", root, *options)
    assert result["split"] == "1, 2, 3"
    each = [result["splits"][split] for split in "123"]
    assert [rows["float"]["frames"] for rows in each] == [10, 9, 11]
    assert [rows["float"]["joints_not_labelled"] for rows in each] == [0, 5, 5]
    for name in ("float", "keyframe", "resq"):
        mean = np.mean([rows[name]["pck"] for rows in each])
        assert result[name]["pck"] == pytest.approx(mean)
        assert 0 < mean < 1
    assert result["float"]["pck"] == pytest.approx(result["keyframe"]["pck"], abs=0.05)
    assert set(result["float"]["per_joint"]) == set(POSE_CARD.joint_set.names)  # type: ignore[union-attr]
    one = evaluated("jhmdb", root, *options, "--split", "2")
    assert one["resq"] == each[1]["resq"]
    assert "splits" not in one


def write_clips(root: Path) -> Path:
    """A video, a folder of pictures, one with a damaged picture, and what is neither."""
    root.mkdir()
    with VideoWriter(root / "film.mp4", 10, SIZE) as video:
        for i in range(6):
            video.write(picture(3 * i))
    for folder in ("walk", "worn"):
        (root / folder).mkdir()
        for i in range(5):
            Image.fromarray(picture(3 * i)).save(root / folder / f"{i}.png")
    (root / "worn" / "3.png").write_bytes(b"no picture")
    (root / "broken.mp4").write_bytes(b"no film")
    (root / "notes.txt").write_text("neither")
    (root / "empty").mkdir()
    return root


@pytest.mark.parametrize(("model", "measure"), [("drive", "miou"), ("figure", "pck")])
def test_clips_without_labels_against_the_float_network(
    models: dict[str, Any], model: str, measure: str, tmp_path: Path
) -> None:
    root = write_clips(tmp_path / "clips")
    precision = models[model][0].precisions[0]
    result = evaluated("clips", root, "--model", model, "--precision", precision, "--period", 3)
    assert (result["truth"], result["clips"]) == ("float", 2)
    assert "float" not in result
    reasons = {found["clip"]: found["reason"] for found in result["skipped"]}
    assert set(reasons) == {"broken.mp4", "worn"}
    assert "3.png cannot be read" in reasons["worn"]
    assert "broken.mp4" in reasons["broken.mp4"]
    assert result["keyframe"]["frames"] == result["resq"]["frames"] == 11
    assert result["keyframe"][measure] > 0.9
    assert result["hold"][measure] < result["keyframe"][measure]
    assert result["hold"][measure] <= result["resq"][measure]


def test_an_interrupted_evaluation_goes_on(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_camvid(tmp_path / "data", {"0001TP": 4, "0006R0": 3})
    state = tmp_path / "state.ndjson"
    options = ("camvid", root, "--model", "drive")
    whole = evaluated(*options)
    add = EvaluationState.add

    def killed(self: EvaluationState, row: str, clip: str, record: Any) -> None:
        if (row, clip) == ("hold", "0006R0"):
            raise KeyboardInterrupt
        add(self, row, clip, record)

    with monkeypatch.context() as patch:
        patch.setattr(EvaluationState, "add", killed)
        assert run(*options, "--state", state).exit_code == 130
    assert len(state.read_text().splitlines()) == 1 + 5 + 3
    assert evaluated(*options, "--state", state) == whole
    assert len(state.read_text().splitlines()) == 1 + 2 * 5
    for change, words in [
        (("--period", 2), "period is 3 there and 2 here"),
        (("--threshold", 0.5), "threshold is None there and 0.5 here"),
        (("--precision", "W8A8->W8A{0,4,8}"), "precision is 'W8A8->W8A4' there"),
    ]:
        done = run(*options, *change, "--state", state)
        assert isinstance(done.exception, OptionError)
        assert words in str(done.exception)
    (tmp_path / "models" / "drive" / "drive.resq").write_text("other weights")
    assert "model_sha256 is" in str(run(*options, "--state", state).exception)


def test_the_report_for_people(models: dict[str, Any], tmp_path: Path) -> None:
    root = write_camvid(tmp_path / "data", {"0001TP": 4, "short": 1})
    done = run("camvid", root, "--model", "drive")
    assert done.exit_code == 0, done.output
    words = ["mIoU", "frames after the keyframe", "1 of 2 clips left out:", "short has 1 frames"]
    for word in [*words, "1 clips against labels; backend:"]:
        assert word in done.stdout


def test_the_device_of_the_command_goes_before_that_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_camvid(tmp_path / "data", {"0001TP": 3})
    monkeypatch.setenv("RESQ_DEVICE", "cuda:99")
    refused = run("camvid", root)
    assert isinstance(refused.exception, ConfigError)
    assert "RESQ_DEVICE is 'cuda:99'" in str(refused.exception)
    result = evaluated("camvid", root, "--device", "cpu", "--backend", "reference")
    assert (result["backend"], result["resq"]["frames"]) == ("reference", 3)
    refused = run("camvid", root, "--device", "gpu")
    assert isinstance(refused.exception, ConfigError)
    assert "--device is 'gpu': expected cpu" in str(refused.exception)


def test_a_row_without_scales_is_left_out_and_named(models: dict[str, Any], tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "data", {"ulm_000001": 19})
    result = evaluated("cityscapes", root, "--model", "city")
    assert "frame" not in result
    assert "W8A4" in result["left_out"]["frame"]
    assert "no row frame: " in run("cityscapes", root, "--model", "city").stdout


def mistake(layout: str, *options: str) -> Callable[[Path], tuple[object, ...]]:
    return lambda root: (layout, root / "data", *options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (mistake("camvid", "--model", "none"), OptionError, "there are: "),
        (mistake("camvid", "--model", "city"), OptionError, "city has the classes road"),
        (mistake("camvid", "--model", "figure"), OptionError, "camvid is for segmentation"),
        (mistake("camvid", "--model", "drive", "--split", "val"), InputError, "has: test"),
        (mistake("camvid", "--model", "drive", "--phases", "0"), OptionError, "phases are"),
        (mistake("camvid", "--model", "drive", "--period", "0"), OptionError, "period T is 0"),
        (mistake("camvid", "--model", "drive", "--threshold", "-1"), OptionError, "threshold"),
        (mistake("clips", "--model", "drive", "--split", "x"), OptionError, "have none"),
        (
            mistake("clips", "--model", "drive", "--phases", "2"),
            OptionError,
            "phases is 2; they are",
        ),
        (mistake("jhmdb", "--model", "figure", "--split", "1"), InputError, "no folder of splits"),
        (mistake("davis2017", "--model", "drive"), InputError, "no list of clips"),
    ],
)
def test_mistakes(
    options: Callable[[Path], tuple[object, ...]],
    error: type[Exception],
    words: str,
    models: dict[str, Any],
    tmp_path: Path,
) -> None:
    write_camvid(tmp_path / "data", {"0001TP": 3})
    precision = ("--precision", "W8A8->W8A{0,4,8}")
    done = run(*options(tmp_path), *precision)
    assert isinstance(done.exception, error), done.output
    assert words in str(done.exception)
