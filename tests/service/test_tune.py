"""`resq tune` on real video files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import resq_core
from resq_core.errors import CalibrationError, InputError, OptionError, PrecisionError
from resq_core.zoo import Shelf
from service.cli import app
from service.encoder import VideoWriter
from tests.service.conftest import SIZE, Tiny, colour

FRAMES = 12


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A still picture of two colours with a square that moves."""
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10, SIZE) as video:
        for i in range(FRAMES):
            picture = colour(0)
            picture[16:32, 4 * i : 4 * i + 16] = (40, 60, 200)
            video.write(picture)
    return path


def tune(clip: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["tune", "--clip", str(clip), "--model", "tiny", *arguments])


def test_a_tuned_model_is_written_and_keeps_the_goal(
    clip: Path, shelf: Shelf, tmp_path: Path
) -> None:
    curve, out = tmp_path / "out" / "curve.json", tmp_path / "models" / "mine"
    done = tune(
        clip, "--max-drop", "1.5", "--periods", "2,6", "--curve", str(curve), "--out", str(out)
    )
    assert done.exit_code == 0, done.output
    found = json.loads(curve.read_text())
    best = found["best"]
    assert best in found["points"]
    assert best["drop"] <= 1.5
    assert {p["period"] for p in found["points"]} == {2, 6}
    assert [p["bops"] for p in found["hold"]] == [pytest.approx(1 / 2), pytest.approx(1 / 6)]
    assert (found["frames"], found["w8a8_score"]) == (FRAMES, 100.0)
    line = next(x for x in done.stdout.splitlines() if x.startswith("resq run"))
    assert f"--period {best['period']}" in line
    with Image.open(curve.with_suffix(".png")) as plot:
        assert plot.width > 500
    assert shelf.card("mine").precisions[0] == best["precision"]
    tuned = resq_core.load(shelf.path("mine"), Tiny())
    assert tuned.options.period == best["period"]
    assert tuned.options.policy.threshold == best["threshold"]
    again = tune(clip, "--max-drop", "1.5", "--out", str(tmp_path / "x.resq"))
    assert again.exit_code == 0, again.output
    assert (tmp_path / "x.resq").is_file()


def test_labels_make_the_drop_one_of_miou(clip: Path, shelf: Shelf, tmp_path: Path) -> None:
    labels, curve = tmp_path / "labels", tmp_path / "curve.json"
    labels.mkdir()
    truth = np.zeros(SIZE, np.uint8)
    truth[:, SIZE[1] // 2 :] = 1
    Image.fromarray(truth).save(labels / "000005.png")
    done = tune(clip, "--max-drop", "100", "--labels", str(labels), "--curve", str(curve))
    assert done.exit_code == 0, done.output
    found = json.loads(curve.read_text())
    assert found["drop_is"] == "mIoU"
    assert 30 < found["w8a8_score"] < 100  # the square is not in the labels
    assert "points of mIoU" in done.stdout


def test_a_pose_model_is_tuned_on_its_joints(clip: Path, shelf: Shelf, tmp_path: Path) -> None:
    curve = tmp_path / "curve.json"
    done = tune(clip, "--model", "marker", "--max-bops", "0.6", "--curve", str(curve))
    assert done.exit_code == 0, done.output
    found = json.loads(curve.read_text())
    assert found["best"]["bops"] <= 0.6
    assert found["drop_is"].startswith("joints within")
    assert "joints within 5%" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "0 goals given; expected one of --max-drop, --max-bops, --max-ms"),
        (["--max-drop", "1", "--max-ms", "9"], "2 goals given"),
        (["--max-drop", "1", "--periods", "4,x"], "periods is '4,x'"),
        (["--max-drop", "1", "--model", "none"], "there are: anything, person, street"),
        (["--max-drop", "1", "--box", "0,0,9,9"], "box is for pose models"),
        (["--max-drop", "1", "--precision", "W8A8"], "residual frames have bits"),
        (["--max-bops", "0.1"], r"no setting keeps max-bops 0\.1: the closest has"),
    ],
)
def test_mistakes(clip: Path, shelf: Shelf, arguments: list[str], message: str) -> None:
    done = tune(clip, *arguments)
    assert isinstance(done.exception, OptionError)
    with pytest.raises(OptionError, match=message):
        raise done.exception


@pytest.mark.parametrize(
    ("precision", "error"),
    [("W8A8->W8A{0,2}", CalibrationError), ("W8A8-W8A{0,4,8}", PrecisionError)],
)
def test_a_precision_that_the_model_has_not_comes_with_the_nearest(
    clip: Path, shelf: Shelf, precision: str, error: type[Exception]
) -> None:
    done = tune(clip, "--max-drop", "1", "--precision", precision)
    assert isinstance(done.exception, error)
    assert "did you mean W8A8->W8A{0,4,8}? tiny has: " in str(done.exception)


def test_clips_and_labels_that_do_not_fit(clip: Path, shelf: Shelf, tmp_path: Path) -> None:
    goal = ("--max-drop", "1")
    for arguments, message in [
        (["--periods", "8"], "12 frames; expected 16 or more, two periods of T = 8"),
        (["--frames", "6"], "6 frames; expected 8 or more"),
        (["--start", "99"], "no frame 99"),
        (["--labels", str(tmp_path / "none")], "no folder of labels"),
        (["--labels", str(tmp_path)], "no label of the frames 0 to 11"),
        (["--model", "marker", "--labels", str(tmp_path)], "labels are class ids"),
    ]:
        done = tune(clip, *goal, *arguments)
        assert isinstance(done.exception, (InputError, OptionError)), arguments
        assert message in str(done.exception)
    (tmp_path / "000000.png").write_bytes(b"no picture")
    assert "cannot be read" in str(tune(clip, *goal, "--labels", str(tmp_path)).exception)
    Image.new("RGB", (64, 48)).save(tmp_path / "000000.png")
    assert "of mode RGB" in str(tune(clip, *goal, "--labels", str(tmp_path)).exception)


def test_layers_are_tuned_into_a_saved_model(clip: Path, shelf: Shelf, tmp_path: Path) -> None:
    curve, out = tmp_path / "curve.json", tmp_path / "x.resq"
    goal = ("--max-drop", "3", "--periods", "3", "--precision", "W8A8->W8A{0,8}", "--layers")
    done = tune(clip, *goal, "--curve", str(curve), "--out", str(out))
    assert done.exit_code == 0, done.output
    fitted = json.loads(curve.read_text())["layers"]
    assert set(fitted["factors"]) <= {"first", "second"}
    assert "factors by layer, on the second half" in done.stdout
    saved = resq_core.load(out, Tiny()).options.policy.factors
    kept = fitted["pays"] and "are left out" not in done.stdout
    assert saved == (fitted["factors"] if kept else {})
    assert "expected --out" in str(tune(clip, *goal).exception)
