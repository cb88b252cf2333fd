"""`resq run` and `resq calibrate` on real video files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

import resq_core
from resq_core import models
from resq_core.errors import OptionError, SavedModelError
from resq_core.zoo import PACKAGED, Shelf
from service.annotate import Prediction, annotate
from service.cli import app
from service.decoder import ClipError, open_clip
from service.encoder import VideoWriter
from service.engine import StreamSpec
from service.local_engine import LocalEngine, shelf_models
from service.messages import Bops

SIZE = (90, 120)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten frames: a still background with a bright square that moves."""
    path = tmp_path / "clip.mp4"
    background = np.random.default_rng(0).integers(60, 120, (*SIZE, 3)).astype(np.uint8)
    with VideoWriter(path, 10, SIZE) as video:
        for i in range(10):
            picture = background.copy()
            picture[30:50, 8 * i : 8 * i + 20] = 250
            video.write(picture)
    return path


def test_run_writes_a_result_for_every_frame(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(clip), "--out", str(out), "--period", "4", "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["frames"], summary["results"], summary["drops"]) == (10, 10, 0)
    assert summary["anchors"] == 3
    assert 0 < summary["bop_saving"] < 0.7
    lines = [json.loads(line) for line in (out / "results.ndjson").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(10))
    assert [line["anchor_reason"] for line in lines[:5]] == [
        "first_frame",
        None,
        None,
        None,
        "period",
    ]
    spent = sum(line["bops"]["frame"] + line["bops"]["policy"] for line in lines)
    assert summary["bop_saving"] == pytest.approx(1 - spent / sum(x["bops"]["w8a8"] for x in lines))
    assert {path.name for path in out.iterdir()} == {"annotated.mp4", "results.ndjson"}
    with open_clip(out / "annotated.mp4") as video:
        pictures = [frame.image for frame in video]
    assert len(pictures) == 10
    assert pictures[0].shape[1] > 2 * SIZE[1]


def test_run_on_something_that_is_no_clip(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"nothing of the kind")
    done = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, ClipError)
    assert not (tmp_path / "out").exists()


def test_calibrate_makes_a_model_that_runs(clip: Path, tmp_path: Path) -> None:
    network = models.build("ddrnet23_slim", num_classes=3)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    out = tmp_path / "model.resq"
    arguments = ["--weights", str(tmp_path / "w.safetensors"), "--classes", "3", "--out", str(out)]
    first, also = "W8A8->W8A4", "W8A8->W8A{0,4,8}"
    options = ["--size", "64x64", "--samples", "2", "--precision", first, "--precision", also]
    options += ["--precision", "W4A4", "--unsigned"]
    done = CliRunner().invoke(app, ["calibrate", str(clip), *arguments, *options])
    assert done.exit_code == 0, done.output
    model = resq_core.load(out)
    assert str(model.precision) == first
    model.with_precision(also)
    assert [str(slot) for slot in model.encodings.unsigned] == ["frame W4A4"]
    wrong = CliRunner().invoke(app, ["calibrate", str(clip), *arguments, "--size", "64"])
    assert isinstance(wrong.exception, OptionError)


def test_what_an_stm_cannot_be_is_not_left_out_in_silence(clip: Path, tmp_path: Path) -> None:
    save_file(models.build("stm", width=4).state_dict(), tmp_path / "w.safetensors")
    arguments = ["--weights", str(tmp_path / "w.safetensors"), "--architecture", "stm"]
    options = ["--out", str(tmp_path / "stm.resq"), "--masks", str(clip), "--unsigned"]
    done = CliRunner().invoke(app, ["calibrate", str(clip), *arguments, *options])
    assert isinstance(done.exception, OptionError)
    assert "unsigned is given" in str(done.exception)
    assert not (tmp_path / "stm.resq").exists()


def test_a_model_folder_is_served(clip: Path, tmp_path: Path) -> None:
    network = models.build("hrnet_w16_pose", num_joints=15)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    folder = tmp_path / "models" / "walkers"
    arguments = ["--weights", str(tmp_path / "w.safetensors"), "--architecture", "hrnet_w16_pose"]
    options = ["--joints", "jhmdb15", "--size", "64x64", "--samples", "1", "--out", str(folder)]
    done = CliRunner().invoke(
        app, ["calibrate", str(clip), *arguments, *options, "--precision", "W8A8->W8A4", "--half"]
    )
    assert done.exit_code == 0, done.output
    weights = (tmp_path / "w.safetensors").stat().st_size
    assert (folder / "walkers.resq").stat().st_size < 0.55 * weights
    shelf = Shelf(tmp_path / "models")
    assert shelf.names() == ("walkers",)
    assert shelf.card("walkers").joints == "jhmdb15"
    engine = LocalEngine(shelf_models(PACKAGED, shelf))
    assert [card.name for card in engine.models()] == [*PACKAGED.names(), "walkers"]
    stream = engine.open(StreamSpec("walkers"))
    result = stream.step(np.full((90, 120, 3), 90, np.uint8), False, False, None)
    assert result.pose is not None
    assert result.pose.keypoints.shape == (15, 3)
    wrong = CliRunner().invoke(
        app, ["calibrate", str(clip), *arguments, "--out", "x", "--joints", "y"]
    )
    assert "expected one of coco17" in str(wrong.exception)
    (folder / "card.json").write_text("{}")
    with pytest.raises(SavedModelError, match=r"card\.json: name: Field required"):
        shelf_models(shelf)


@pytest.mark.parametrize("size", [(90, 120), (91, 121), (2, 2), (1080, 1920)])
def test_annotated_pictures_have_one_even_size(size: tuple[int, int]) -> None:
    def draw(index: int, anchor: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        bops = Bops(frame=1, policy=0, w8a8=2, fp32=32, saving=0.5)
        figures = SimpleNamespace(
            index=index, is_anchor=anchor, mean_bits=8.0, active_fraction=1.0, bops=bops
        )
        return annotate(
            np.full((*size, 3), 100, np.uint8),
            Prediction([(255, 0, 0)], np.zeros(size, np.uint8)),
            np.full((3, 4), 8.0 * anchor, np.float32),
            figures,
            "street",
        )

    first, later = draw(0, True), draw(99_999, False)
    assert first.shape == later.shape
    assert first.shape[0] % 2 == 0
    assert first.shape[1] % 2 == 0
    assert not np.array_equal(first, later)
