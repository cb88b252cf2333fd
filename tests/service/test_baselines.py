"""`resq experiment baselines` on a small network and a drawn clip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import resq_core
from resq_core import evaluation
from resq_core.errors import CalibrationError, InputError, OptionError
from service.cli import app
from tests.service.conftest import CARD, Tiny

SIZE = (64, 96)
FRAMES = 7
PRECISIONS = ("W8A8", "W2A2", "W8A8->W2A2", "W8A8->W8A{0,8}")


@pytest.fixture(scope="module")
def quantized() -> resq_core.QuantizedModel:
    torch.manual_seed(0)
    model = resq_core.quantize(Tiny(), "W8A8->W8A{0,8}", period=3)
    clip = 2 * torch.rand(8, 3, *SIZE).mul(2).sub(1)
    model.calibrate([clip], samples=6, also=["W2A2", "W8A8->W2A2"])
    return model


@pytest.fixture(autouse=True)
def tiny(
    tmp_path: Path, quantized: resq_core.QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    (folder / "tiny").mkdir(parents=True)
    quantized.save(folder / "tiny" / "tiny.resq")
    card = CARD.model_copy(update={"input_size": SIZE})
    (folder / "tiny" / "card.json").write_text(card.model_dump_json())
    monkeypatch.setenv("RESQ_MODELS_DIR", str(folder))
    monkeypatch.setattr("service.local_engine._load", lambda *_: quantized)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Blocks of colour that walk, labelled by which colour is strongest."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (8, 12, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    folder = tmp_path / "camvid"
    for split in ("clip", "clip_labels"):
        (folder / split).mkdir(parents=True)
    for i in range(FRAMES):
        picture = np.roll(blocks, 2 * i, 1)
        Image.fromarray(picture).save(folder / "clip" / f"{i}.jpg", quality=100, subsampling=0)
        Image.fromarray(picture.argmax(2).astype(np.uint8)).save(
            folder / "clip_labels" / f"{i}.png"
        )
    return folder


def run(root: Path, *arguments: str, precisions: tuple[str, ...] = PRECISIONS) -> Result:
    chosen = [word for p in precisions for word in ("--precision", p)]
    fixed = ["--root", str(root), "--split", "clip", "--model", "tiny", "--seeds", "2"]
    lists = ["--threshold", "0.1", "--skip-threshold", "0", "--budget", "0.03"]
    words = ["experiment", "baselines", *fixed, *lists, *chosen, *arguments]
    return CliRunner().invoke(app, words)


def test_one_table_holds_every_row(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    out = tmp_path / "new" / "table.json"
    done = run(root, "--out", str(out), "--head", "second", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content == json.loads(out.read_text())
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    rows = {row["key"]: row for row in content["rows"]}
    methods = [row["method"] for row in content["rows"]]
    wanted = {"float": 1, "frame": 2, "hold": 1, "mixed": 1, "resq": 6, "skip-conv": 2}
    wanted |= {"warping": 2, "oracle": 1, "random": 2}
    assert {m: methods.count(m) for m in methods} == wanted
    assert all(row["frames"] == FRAMES for row in rows.values())

    exact, frame = rows["float | W32A32 | "], rows["frame | W8A8 | "]
    assert exact["miou"] > 0.95
    assert exact["bops"] == 16 * frame["bops"]
    skipped = rows["skip-conv | W32A32 | ε = 0"]
    assert (skipped["miou"], skipped["anchors"]) == (exact["miou"], 3)
    assert rows["skip-conv | W8A8 | ε = 0"]["miou"] == pytest.approx(frame["miou"], abs=1e-3)
    mixed = rows["mixed | W8A8, W2A2 | "]
    share = (3 * 64 + 4 * 4) / (7 * 64)
    for reference in ("keyframe", "previous", "tracking"):
        assert rows[f"resq | W8A8->W2A2 | {reference}"]["bops"] == pytest.approx(mixed["bops"])
    assert mixed["bops"] == pytest.approx(share * frame["bops"])
    hold, warped = rows["hold | W8A8 | "], rows["warping | W8A8 | output"]
    assert hold["bops"] == pytest.approx(frame["bops"] * 3 / 7) == pytest.approx(warped["bops"])
    assert warped["miou"] > hold["miou"]  # all of the picture moves alike
    levels = "skip, W2A2, W8A8, float"
    oracle = rows[f"oracle | {levels} | budget 0.03"]
    for seed in range(2):
        drawn = rows[f"random | {levels} | budget 0.03, seed {seed}"]
        assert drawn["bops"] == pytest.approx(oracle["bops"])
    assert len(oracle["choices"]) == FRAMES


def test_an_interrupted_table_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    out, again, frames = tmp_path / "table.json", tmp_path / "again.json", PRECISIONS[:2]
    assert run(root, "--out", str(again), precisions=frames).exit_code == 0
    scored = evaluation.evaluate_clip
    left = 7

    def break_off(*arguments: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return scored(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "evaluate_clip", break_off)
    assert run(root, "--out", str(out), precisions=frames).exit_code != 0
    rows = json.loads(out.read_text())["rows"]
    assert (len(rows), rows[-1]["method"]) == (7, "oracle")
    left = 2  # the random orders and nothing before them: the oracle's choices are in the file
    assert run(root, "--out", str(out), precisions=frames).exit_code == 0
    assert left == 0
    assert json.loads(out.read_text()) == json.loads(again.read_text())
    # fewer rows: nothing is run, and none is lost
    fewer = run(root, "--out", str(out), "--seeds", "1", "--json", precisions=frames)
    assert fewer.exit_code == 0, fewer.output
    assert len(json.loads(fewer.stdout)["rows"]) == 8
    assert json.loads(out.read_text()) == json.loads(again.read_text())


def test_rows_of_other_options_are_refused(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    out = tmp_path / "table.json"
    assert run(root, "--out", str(out), "--frames", "2", precisions=("W8A8",)).exit_code == 0
    known = out.read_text()
    done = run(root, "--out", str(out), "--frames", "3", precisions=("W8A8",))
    assert isinstance(done.exception, OptionError)
    assert "frames 2, here 3" in str(done.exception)
    assert out.read_text() == known
    out.write_text("[1]")
    done = run(root, "--out", str(out), "--frames", "2", precisions=("W8A8",))
    assert isinstance(done.exception, InputError)
    assert "is not a table of baselines" in str(done.exception)


def test_the_table_is_for_people_too(root: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    done = run(root, "--frames", "2", precisions=("W8A8",))
    assert done.exit_code == 0, done.output
    assert "2 frames of clip, T = 3" in done.stdout
    assert "skip-conv" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "precisions", "error", "message"),
    [
        (["--frames", "0"], PRECISIONS, OptionError, "frames is 0"),
        (["--period", "1"], PRECISIONS, OptionError, "period T is 1; expected 2 or more"),
        (["--head", "third"], PRECISIONS, OptionError, "no layer 'third'"),
        (["--seeds", "-1"], PRECISIONS, OptionError, "seeds is -1"),
        ([], PRECISIONS[2:], OptionError, "none of single frames"),
        ([], (*PRECISIONS, "W3A3"), CalibrationError, "frame W3A3"),
        (
            ["--model", "nothing"],
            PRECISIONS,
            OptionError,
            "there are: anything, person, street, tiny",
        ),
    ],
)
def test_mistakes(
    root: Path,
    arguments: list[str],
    precisions: tuple[str, ...],
    error: type[Exception],
    message: str,
) -> None:
    done = run(root, *arguments, precisions=precisions)
    assert isinstance(done.exception, error), done.output
    assert message in str(done.exception)
