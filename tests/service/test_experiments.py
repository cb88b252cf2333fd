"""`resq experiment` on tiny pictures: every experiment from the command to its files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import resq_core
from resq_core import QuantizedModel
from resq_core.backends import Backend
from resq_core.errors import CalibrationError, InputError, OptionError, PrecisionError
from resq_core.evaluation import ConfusionMatrix
from resq_core.zoo import Shelf
from service.cli import app
from service.commands.experiments import report as reporting
from service.decoder import ClipError
from service.encoder import VideoWriter
from tests.service.conftest import CARD, POSE_CARD, SIZE, Tiny, colour

FRAMES = 8
W8A8 = 8 * 8
ALSO = ["W8A8->W8A4", "W8A4", "W8A8->W4A4", "W4A4", "W8A8->W4A8", "W4A8", "W4A4->W4A{0,4,8}"]


def picture(i: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.roll(colour(i // 3), 3 * i, 1)


@pytest.fixture(scope="module")
def calibrated() -> QuantizedModel:
    torch.manual_seed(0)
    model = resq_core.quantize(Tiny(), "W8A8->W8A{0,4,8}", period=4)
    material = torch.stack([CARD.segmentation().preprocess(picture(i))[0] for i in range(FRAMES)])
    model.calibrate([material], samples=6, also=ALSO)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, calibrated: QuantizedModel) -> Path:
    """A folder of models: `tiny`, `marker`, which does poses, and `learned`, with other weights."""
    folder = tmp_path_factory.mktemp("models")
    network = Tiny()
    with torch.no_grad():
        network.second.weight.mul_(torch.tensor([1.0, 0.5, 0.25])[:, None, None, None])
    learned = calibrated.with_network(network, calibrated.encodings).with_precision("W8A8->W4A4")
    for name, card, model in (
        ("tiny", CARD, calibrated),
        ("marker", POSE_CARD, calibrated),
        ("learned", CARD, learned),
        ("others", CARD.model_copy(update={"classes": ("a", "b", "c")}), learned),
    ):
        (folder / name).mkdir()
        model.save(folder / name / f"{name}.resq")
        named = card.model_copy(update={"name": name})
        (folder / name / "card.json").write_text(named.model_dump_json())
    return folder


@cache
def loaded(path: Path, backend: Backend) -> QuantizedModel:
    return resq_core.load(path, Tiny(), backend)


@pytest.fixture
def models(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`saved`, in force; what is loaded is kept for the next test."""
    monkeypatch.setenv("RESQ_MODELS_DIR", str(saved))

    def load(shelf: Shelf, name: str, backend: Backend, _device: str) -> QuantizedModel:
        return loaded(shelf.path(name), backend)

    monkeypatch.setattr("service.local_engine._load", load)
    return saved


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """A clip in CamVid's layout: pictures, and labels of the same names beside them."""
    clip, labels = tmp_path / "clip", tmp_path / "clip_labels"
    clip.mkdir()
    labels.mkdir()
    for i in range(FRAMES):
        Image.fromarray(picture(i)).save(clip / f"{i:03d}.jpg", quality=95)
        Image.fromarray(picture(i).argmax(-1).astype(np.uint8)).save(labels / f"{i:03d}.png")
    return clip


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10, SIZE) as writer:
        for i in range(FRAMES):
            writer.write(picture(i))
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["experiment", *map(str, arguments), "--model", "tiny"])


def run(name: str, out: Path, *arguments: object) -> dict[str, Any]:
    """The JSON on stdout, which is the JSON in the folder."""
    done = invoke(name, *arguments, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    content: dict[str, Any] = json.loads(done.stdout)
    assert content == json.loads((out / f"{name}.json").read_text())
    assert content["experiment"] == name
    return content


def assert_chart(path: Path) -> None:
    with Image.open(path) as drawn:
        assert np.asarray(drawn.convert("L")).std() > 5
    assert ElementTree.parse(path.with_suffix(".svg")).getroot().tag.endswith("svg")


def test_tradeoff(models: Path, camvid: Path, tmp_path: Path) -> None:
    arguments = ("--period", 2, "--period", 4, "--reference", "keyframe")
    content = run("tradeoff", tmp_path / "out", camvid, *arguments)
    assert (content["measure"], content["frames"]) == ("mIoU", FRAMES)
    rows = {(r["method"], r["precision"], r["period"]): r for r in content["runs"]}
    assert len(rows) == len(content["runs"]) == 1 + 2 + 2 + 2 * 2
    dense = rows["frame quantization", "W8A8", 1]
    assert rows["float", "float32", 1]["bops"] == dense["bops"] * 32 * 32 / W8A8
    for period in (2, 4):
        static = rows["ResQ", "W8A8->W8A4", period]
        assert static["bops"] == pytest.approx(dense["bops"] * (1 + (period - 1) / 2) / period)
        hold = rows["hold", "W8A8->W8A0", period]
        assert hold["bops"] == dense["bops"] / period
        assert hold["miou"] < static["miou"] <= 1
        dynamic = rows["Dynamic-ResQ", "W8A8->W8A{0,4,8}", period]
        assert dynamic["policy_bops"] > 0 == static["policy_bops"]
    assert_chart(tmp_path / "out" / "tradeoff.png")


def test_without_labels_the_float_network_is_right(
    models: Path, video: Path, camvid: Path, tmp_path: Path
) -> None:
    arguments = ("--period", 2, "--precision", "W8A8->W8A4", "--frames", 4)
    found = run("tradeoff", tmp_path / "out", video, *arguments)
    assert (found["measure"], found["frames"]) == ("mIoU against the float network", 4)
    assert found["runs"][0]["miou"] == 1
    assert min(row["miou"] for row in found["runs"]) < 1
    camvid.with_name("clip_labels").rename(tmp_path / "elsewhere")
    found = run("tradeoff", tmp_path / "out", camvid, *arguments)
    assert found["measure"] == "mIoU against the float network"


def test_labels_of_some_frames_of_a_video(models: Path, video: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    Image.fromarray(picture(2).argmax(-1).astype(np.uint8)).save(labels / "000002.png")
    content = run(
        "distance", tmp_path / "out", video, "--labels", labels, "--period", 4, "--frames", 4
    )
    hold = content["runs"][0]
    assert content["measure"] == "mIoU"
    assert hold["by_distance"][1] is not None  # frame 2 in the phase that begins at 1
    assert hold["by_distance"][3] is None  # it is never so far from a keyframe
    assert_chart(tmp_path / "out" / "distance.png")


def test_distance(models: Path, camvid: Path, tmp_path: Path) -> None:
    content = run("distance", tmp_path / "out", camvid, "--period", 3)
    flat = {row["precision"]: row for row in content["levels"]}
    assert list(flat) == ["float32", "W4A4"]
    labels = ["hold", "ResQ W8A8->W4A4, keyframe", "ResQ W8A8->W4A4, tracking"]
    assert [row["label"] for row in content["runs"]] == labels
    hold = content["runs"][0]["by_distance"]
    assert len(hold) == 3
    assert hold[0] > hold[1] > hold[2]
    assert [row["by_distance"][0] for row in content["runs"]] == [hold[0]] * 3
    assert_chart(tmp_path / "out" / "distance.png")


def test_references(models: Path, camvid: Path, tmp_path: Path) -> None:
    arguments = ("--precision", "W8A8->W4A4", "--period", 2, "--period", 8)
    content = run("references", tmp_path / "out", camvid, *arguments)
    found = {(row["reference"], row["period"]): row["pixel_accuracy"] for row in content["runs"]}
    assert len(found) == 6
    # the frame before is the keyframe: all three are the same residual, but what
    # `tracking` takes it from is quantized
    assert found["keyframe", 2] == found["previous", 2]
    assert_chart(tmp_path / "out" / "references.png")


def test_granularity(models: Path, camvid: Path, video: Path, tmp_path: Path) -> None:
    arguments = ("--samples", 4, "--precision", "W8A8->W4A4", "--calibrate", video)
    content = run("granularity", tmp_path / "out", camvid, *arguments)
    assert content["calibrated_on"] == [str(video)]
    assert [row["granularity"] for row in content["runs"]] == ["tensor", "channel"]
    assert_chart(tmp_path / "out" / "granularity.png")


def test_training(models: Path, camvid: Path, tmp_path: Path) -> None:
    by_path = str(models / "learned")
    content = run("training", tmp_path / "out", camvid, by_path, "learned")
    first, second = content["models"]
    assert first == second
    assert (first["name"], first["precision"]) == ("learned", "W8A8->W4A4")
    assert first["trained"]["miou"] < first["calibrated"]["miou"] <= 1
    assert_chart(tmp_path / "out" / "training.png")
    done = invoke("training", camvid, "others")
    assert "others has other classes than tiny" in str(done.exception)
    done = invoke("training", camvid, "tiny", "unknown")
    assert isinstance(done.exception, OptionError)


def test_classes_of_residual_frames_alone(models: Path, camvid: Path, tmp_path: Path) -> None:
    content = run("classes", tmp_path / "out", camvid, "--period", 4)
    matrix = ConfusionMatrix(3)
    for i in range(FRAMES):
        if i % 4:
            kept = picture(i - i % 4).argmax(-1).astype(np.uint8)
            matrix.update(kept, picture(i).argmax(-1).astype(np.uint8))
    hold = next(row for row in content["runs"] if row["method"] == "hold")
    wanted = dict(zip(CARD.classes, matrix.iou(), strict=True))
    assert hold["iou"] == pytest.approx(wanted, abs=0.02)  # JPEG shifts a few pixels
    assert_chart(tmp_path / "out" / "classes.png")
    done = invoke("classes", camvid, "--frames", 1)
    assert "the clip has 1 frames" in str(done.exception)


def test_policy(models: Path, camvid: Path, tmp_path: Path) -> None:
    content = run("policy", tmp_path / "out", camvid, "--distances", 3, "--layer", "first")
    assert content["sequences"] == 2
    assert [entry["distance"] for entry in content["distances"]] == [1, 2, 3]
    for entry in content["distances"]:
        assert list(entry["shares"]) == ["0", "4", "8"]
        assert sum(entry["shares"].values()) == pytest.approx(1)
        assert list(entry["layers"]) == ["first"]
    near, far = (content["distances"][d]["layers"]["first"]["0"] for d in (0, 2))
    assert 0 < far < near < 1  # the picture walks away from the keyframe
    with Image.open(tmp_path / "out" / "policy_maps.png") as sheet:
        assert sheet.height > 2 * 120
        colours = {tuple(c) for c in np.asarray(sheet).reshape(-1, 3)}
    assert {(26, 30, 44), (250, 226, 110)} <= colours  # 0 and 8 bits
    assert_chart(tmp_path / "out" / "policy.png")


def test_a_still_clip_costs_no_bits(models: Path, tmp_path: Path) -> None:
    (tmp_path / "still").mkdir()
    for i in range(3):
        Image.fromarray(picture(0)).save(tmp_path / "still" / f"{i}.png")
    content = run("policy", tmp_path / "out", tmp_path / "still", "--distances", 2)
    assert [entry["shares"]["0"] for entry in content["distances"]] == [1, 1]


def test_panels(models: Path, camvid: Path, tmp_path: Path) -> None:
    content = run("panels", tmp_path / "out", camvid, "--period", 2)
    assert content["shown"] == [1, 5, 7]
    names = ["float", "frame W4A4", "frame W4A8", "ResQ W8A8->W4A4", "ResQ W8A8->W4A{0,4,8}"]
    assert list(content["pixels_as_labels"]) == names
    assert min(content["pixels_as_labels"]["float"]) > 0.97
    with Image.open(tmp_path / "out" / "panels.png") as sheet:
        size, colours = sheet.size, {tuple(c) for c in np.asarray(sheet).reshape(-1, 3)}
    assert size[0] > 8 * 200
    assert size[1] > 3 * 150
    assert {tuple(c) for c in CARD.palette} <= colours
    content = run("panels", tmp_path / "out", camvid, "--frame", 6)
    assert content["shown"] == [6]


def test_residuals(models: Path, camvid: Path, tmp_path: Path) -> None:
    content = run("residuals", tmp_path / "out", camvid, "--distance", 1, "--distance", 4)
    near, far = (entry["layers"] for entry in content["distances"])
    assert [layer["layer"] for layer in near] == ["first", "second"]
    assert near[0]["residual_variance"] < far[0]["residual_variance"]
    assert_chart(tmp_path / "out" / "residuals.png")


def test_a_table_for_people_and_no_chart_without_matplotlib(
    models: Path, camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "find_spec", lambda _name: None)
    done = invoke("tradeoff", camvid, "--period", 2, "--frames", 2, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "W8A8->W8A{0,4,8}" in done.stdout
    assert "pip install 'resq[bench]'" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tradeoff.json"]


def test_mistakes(models: Path, camvid: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    Image.fromarray(np.full(SIZE, 9, np.uint8)).save(tmp_path / "few" / "000000.png")
    few = ("--labels", tmp_path / "few")
    cases: list[tuple[tuple[object, ...], type[Exception], str]] = [
        (("tradeoff", tmp_path / "no.mp4"), ClipError, "there is no file no.mp4"),
        (("tradeoff", tmp_path / "empty"), InputError, "holds no picture"),
        (("tradeoff", camvid, "--labels", tmp_path), InputError, "has no label of the frames"),
        (("tradeoff", camvid, *few), InputError, "the label holds 9; the classes are 0 to 2"),
        (("tradeoff", camvid, "--precision", "W8A8"), OptionError, "residual frames"),
        (("tradeoff", camvid, "--precision", "W8"), PrecisionError, "does not parse"),
        (("tradeoff", camvid, "--precision", "W3A3->W2A2"), CalibrationError, "frame W3A3"),
        (("tradeoff", camvid, "--period", 0), OptionError, "period T is 0"),
        (("distance", camvid, "--reference", "next"), OptionError, "reference is 'next'"),
        (("policy", camvid, "--precision", "W8A8->W8A4"), OptionError, "expected a dynamic one"),
        (("policy", camvid, "--distances", 9), InputError, "gives 8 frames; expected at least 10"),
        (("policy", camvid, "--layer", "frist"), OptionError, "did you mean first"),
        (("panels", camvid, "--frame", 8), OptionError, "frame is 8; expected 0 to 7"),
        (("residuals", camvid, "--distance", 8), InputError, "expected more than 8"),
    ]
    for arguments, error, words in cases:
        done = invoke(*arguments)
        assert isinstance(done.exception, error), (arguments, done.exception)
        assert words in str(done.exception), arguments
    for name, words in (("none", "there are: "), ("marker", "marker does pose")):
        done = CliRunner().invoke(app, ["experiment", "tradeoff", str(camvid), "--model", name])
        assert words in str(done.exception)
