"""`resq train` on real files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from resq_core.errors import CalibrationError, InputError, OptionError, SavedModelError
from resq_core.models import STM, build, options_in
from resq_core.training import Optimizer, Schedule, Trainer
from resq_core.zoo import Shelf
from service.cli import app
from service.commands import learning as command
from service.commands import material
from service.decoder import open_clip
from service.encoder import VideoWriter
from service.objects import read_mask_file
from tests.resq_core.models.foreign import published_lite0
from tests.service.conftest import SIZE, colour

LEARN = ("--model", "tiny", "--precision", "W8A8->W8A4", "--batch", "2", "--steps", "30")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10, SIZE) as video:
        for i in range(8):
            video.write(np.roll(colour(i // 3), 3 * i, 1))
    return path


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    folder = tmp_path / "stills"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(colour(i)).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def train(out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments, "--out", str(out)])


def test_a_model_learns_from_videos_and_pictures_and_is_served(
    clip: Path, stills: Path, shelf: Shelf, tmp_path: Path
) -> None:
    out = tmp_path / "models" / "learned"
    done = train(out, str(clip), str(stills), *LEARN, "--crop", "48x32", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["precision"] == "W8A8->W8A4"
    assert len(report["losses"]) == 2
    logged = [json.loads(line) for line in (out / "losses.ndjson").read_text().splitlines()]
    assert [line["step"] for line in logged] == [20, 30]
    assert [line["loss"] for line in logged] == report["losses"]
    assert not (out / "last.pt").exists()
    card = Shelf(tmp_path / "models").card("learned")
    assert (card.name, card.precisions) == ("learned", ("W8A8->W8A4",))
    assert "Trained at W8A8->W8A4, T = 3, for 30 steps" in card.training


def test_the_same_training_twice_is_the_same_and_an_interrupted_one_too(
    clip: Path, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", str(clip), *LEARN)
    assert whole.exit_code == 0, whole.output
    monkeypatch.setattr(command, "_SAVE_EVERY", 10)
    advance, left = command.Trainer.advance, [14]

    def interrupted(trainer: command.Trainer) -> float:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return advance(trainer)

    monkeypatch.setattr(command.Trainer, "advance", interrupted)
    cut = train(tmp_path / "cut", str(clip), *LEARN)
    assert cut.exit_code == 130
    assert (tmp_path / "cut" / "last.pt").exists()
    assert not (tmp_path / "cut" / "cut.resq").exists()
    rest = train(tmp_path / "cut", str(clip), *LEARN)
    assert rest.exit_code == 0, rest.output
    files = (tmp_path / "whole" / "whole.resq", tmp_path / "cut" / "cut.resq")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_pose_learns_its_heatmaps(clip: Path, shelf: Shelf, tmp_path: Path) -> None:
    out = tmp_path / "models" / "p"
    options = ("--model", "marker", "--precision", "W8A8->W8A{0,4,8}", "--steps", "2")
    done = train(out, str(clip), *options, "--batch", "1", "--mixed")
    assert done.exit_code == 0, done.output
    learned, start = (load_file(Shelf(tmp_path / "models").path(name)) for name in ("p", "marker"))
    assert any(not torch.equal(learned[name], start[name]) for name in start if "weight" in name)


def test_mistakes(clip: Path, stills: Path, shelf: Shelf, tmp_path: Path) -> None:
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no picture")
    cases = [
        (
            (str(clip), "--model", "none", "--precision", "W8A8"),
            OptionError,
            "there are: anything, person, street",
        ),
        ((str(clip), "--model", "tiny", "--precision", "W2A2"), CalibrationError, "frame W2A2"),
        ((str(clip), *LEARN, "--steps", "0"), OptionError, "steps is 0"),
        ((str(clip), *LEARN, "--batch", "0"), OptionError, "batch is 0"),
        (("missing", *LEARN, "--optimizer", "lion"), OptionError, "expected adam or sgd"),
        ((str(clip), *LEARN, "--device", "gpu"), OptionError, "device is 'gpu'; expected cpu"),
        ((str(clip), *LEARN, "--crop", "big"), OptionError, "crop is 'big'"),
        ((str(clip), *LEARN, "--crop", "640x480"), InputError, "frames are 64x48"),
        ((str(clip), *LEARN, "--period", "9"), InputError, "the longest clip has 8 frames"),
        ((str(empty), *LEARN), InputError, "holds no picture"),
        ((str(tmp_path / "bad"), *LEARN), InputError, r"x.png cannot be read"),
    ]
    for arguments, error, words in cases:
        done = train(out, *arguments)
        assert isinstance(done.exception, error), arguments
        assert words in str(done.exception)
    done = train(tmp_path / "m.resq", str(clip), *LEARN)
    assert "m.resq; expected a folder" in str(done.exception)
    assert not (tmp_path / "m.resq").exists()
    (out / "last.pt").write_bytes(b"of something else")
    done = train(out, str(clip), *LEARN)
    assert isinstance(done.exception, SavedModelError)
    assert "last.pt is no checkpoint of this training" in str(done.exception)


def test_epochs_count_pictures_and_frames(
    clip: Path, stills: Path, shelf: Shelf, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--model", "tiny", "--precision", "W8A8->W8A4", "--batch", "2", "--epochs", "3")
    done = train(out, str(clip), str(stills), *options)
    assert done.exit_code == 0, done.output
    last = json.loads((out / "losses.ndjson").read_text().splitlines()[-1])
    assert last["step"] == 17  # 3 times 8 frames and 3 pictures, by twos
    for wrong in ("0", "nan", "inf"):
        refused = train(tmp_path / "x", str(clip), *options[:-1], wrong)
        assert "expected a number above 0" in str(refused.exception)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Pictures whose classes are their brightness, in CamVid's layout."""
    folder, labels = tmp_path / "train", tmp_path / "train_labels"
    folder.mkdir()
    labels.mkdir()
    for i in range(3):
        classes = np.roll(np.repeat(np.arange(3, dtype=np.uint8), 32)[None].repeat(64, 0), 9 * i, 1)
        classes[0, 0] = 11
        Image.fromarray(np.stack([80 * classes] * 3, 2)).save(folder / f"{i}.jpg")
        Image.fromarray(classes).save(labels / f"{i}.png")
    return folder


def test_a_network_learns_in_float_and_goes_on(labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "float" / "weights.safetensors"
    arguments = ["train-float", str(labelled), "--size", "96x64", "--batch", "2", "--out", str(out)]
    short = CliRunner().invoke(app, [*arguments, "--steps", "4", "--json"])
    assert short.exit_code == 0, short.output
    assert json.loads(short.stdout)["steps"] == 4
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "weights.ndjson",
        "weights.safetensors",
    ]
    more = [*arguments, "--steps", "2", "--start", str(out)]
    assert CliRunner().invoke(app, [*more, "--upsample", "2"]).exit_code == 0
    assert options_in(out, "ddrnet23_slim") == {"num_classes": 11, "upsample": 2}
    assert CliRunner().invoke(app, [*more, "--upsample", "2"]).exit_code == 0
    for other, words in (
        (["--upsample", "4"], "this DDRNet has 2 already"),
        (["--architecture", "hrnet_w18_small", "--upsample", "2"], "has no such option"),
    ):
        refused = CliRunner().invoke(app, [*more, *other])
        assert isinstance(refused.exception, OptionError)
        assert words in str(refused.exception)


def test_pictures_that_memory_does_not_hold_are_read_again(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train-float", str(labelled), "--size", "96x64", "--batch", "2", "--steps", "2"]
    one = 4 * 3 * 64 * 96 + 64 * 96  # bytes of a picture and its labels
    for name, kept in (("all", 3 * one), ("some", one)):
        monkeypatch.setattr(material, "_KEPT", kept)
        done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / f"{name}.safetensors")])
        assert done.exit_code == 0, done.output
    files = (tmp_path / "all.safetensors", tmp_path / "some.safetensors")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_split_of_cityscapes_is_learned_from(tmp_path: Path) -> None:
    root, towns = tmp_path / "cityscapes", ("aachen", "bochum")
    for i, town in enumerate(towns):
        for kind in ("leftImg8bit", "gtFine"):
            (root / kind / "train" / town).mkdir(parents=True)
        ids = np.full((32, 64), 7 + i, np.uint8)  # road, pavement
        ids[:8] = 23  # sky
        name = f"{town}_000000_000019"
        Image.fromarray(np.stack([9 * ids] * 3, 2)).save(
            root / "leftImg8bit" / "train" / town / f"{name}_leftImg8bit.png"
        )
        Image.fromarray(ids).save(root / "gtFine" / "train" / town / f"{name}_gtFine_labelIds.png")
    train_split = root / "leftImg8bit" / "train"
    arguments = ["train-float", str(train_split), "--labels", "cityscapes19", "--size", "128x64"]
    arguments += ["--batch", "2", "--steps", "2", "--out", str(tmp_path / "w.safetensors")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert options_in(tmp_path / "w.safetensors", "ddrnet23_slim") == {"num_classes": 19}
    label = root / "gtFine" / "train" / "bochum" / "bochum_000000_000019_gtFine_labelIds.png"
    Image.fromarray(np.full((32, 64), 77, np.uint8)).save(label)
    strange = CliRunner().invoke(app, arguments)
    assert "labelIds.png holds the label id 77" in str(strange.exception)
    label.unlink()
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, InputError)
    assert "bochum_000000_000019_leftImg8bit.png has no label at" in str(refused.exception)


def test_a_pose_network_learns_from_drawn_people(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.commands.train_pose._EXAMINED", 8)
    out = tmp_path / "pose.safetensors"
    arguments = ["train-pose", str(labelled), "--size", "64x64", "--batch", "2", "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--steps", "2", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["steps"] == 2
    assert 0 <= told["pck"] <= 1
    assert options_in(out, "hrnet_w16_pose") == {"num_joints": 15}
    more = CliRunner().invoke(app, [*arguments, "--steps", "1", "--start", str(out)])
    assert "people drawn anew" in more.output
    (tmp_path / "empty").mkdir()
    for wrong, words in (
        (["--architecture", "ddrnet23_slim"], "expected a pose network"),
        (["--size", "65x64"], "expected multiples of 4"),
        (["--batch", "0"], "batch is 0"),
    ):
        refused = CliRunner().invoke(app, [*arguments, *wrong])
        assert isinstance(refused.exception, OptionError)
        assert words in str(refused.exception)
    bare = CliRunner().invoke(app, ["train-pose", str(tmp_path / "empty"), "--out", str(out)])
    assert isinstance(bare.exception, InputError)
    assert "holds no picture" in str(bare.exception)


def test_an_object_network_learns_from_things_that_move(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.commands.train_objects._EXAMINED", 2)
    out = tmp_path / "objects.safetensors"
    arguments = ["train-objects", str(labelled), "--size", "64", "--batch", "2", "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--width", "4", "--steps", "2", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["steps"] == 2
    assert 0 <= told["j"] <= 1
    assert options_in(out, "stm") == {"width": 4}
    more = CliRunner().invoke(
        app, [*arguments, "--steps", "1", "--start", str(out), "--frames", "2"]
    )
    assert "stm of width 4, 1 steps" in more.output
    assert options_in(out, "stm") == {"width": 4}
    for wrong, words in (
        (["--size", "72"], "size is 72; expected a multiple of 16"),
        (["--width", "0"], "width is 0"),
        (["--batch", "0"], "batch is 0"),
        (["--frames", "1"], "--frames is 1; expected 2 at least"),
    ):
        refused = CliRunner().invoke(app, [*arguments, *wrong])
        assert isinstance(refused.exception, OptionError)
        assert words in str(refused.exception)


def test_an_object_network_begins_with_a_published_backbone(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.commands.train_objects._EXAMINED", 1)
    light = build("stm", width=4, backbone="efficientnet_lite0")
    assert isinstance(light, STM)
    weights = published_lite0(light)
    torch.save(weights, tmp_path / "lite0.pth")
    out = tmp_path / "objects.safetensors"
    arguments = ["train-objects", str(labelled), "--size", "64", "--batch", "1", "--steps", "1"]
    arguments += ["--out", str(out), "--scenes", str(tmp_path / "scenes")]
    begun = [*arguments, "--width", "4", "--backbone", str(tmp_path / "lite0.pth")]
    done = CliRunner().invoke(app, begun)
    assert done.exit_code == 0, done.output
    assert options_in(out, "stm") == {"width": 4, "backbone": "efficientnet_lite0"}
    learned = load_file(out)
    means = weights["_bn0.running_mean"]
    assert torch.equal(learned["Encoder_M.bn1.running_mean"], means)  # trained ones stay
    kernel, first = learned["Encoder_M.conv1.weight"], weights["_conv_stem.weight"]
    assert 0 < (kernel - first).abs().max() < 1e-3  # a step of the rate, beside decay
    scenes = [f"{i}.{kind}" for i in range(10) for kind in ("mp4", "png")]
    assert sorted(p.name for p in (tmp_path / "scenes").iterdir()) == scenes
    with open_clip(tmp_path / "scenes/3.mp4") as video:
        assert [frame.image.shape for frame in video] == 16 * [(64, 64, 3)]
    assert 1 in read_mask_file(tmp_path / "scenes/3.png")
    more = CliRunner().invoke(app, [*arguments, "--start", str(out)])
    assert more.exit_code == 0, more.output
    assert options_in(out, "stm") == {"width": 4, "backbone": "efficientnet_lite0"}
    both = CliRunner().invoke(app, [*begun, "--start", str(out)])
    assert "--start has a backbone of its own" in str(both.exception)


def test_labels_that_do_not_fit_are_refused_by_name(labelled: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "weights.safetensors")
    Image.fromarray(np.full((64, 96), 12, np.uint8)).save(labelled.parent / "train_labels/1.png")
    wrong = CliRunner().invoke(app, ["train-float", str(labelled), "--out", out])
    assert isinstance(wrong.exception, InputError)
    assert "train/1 hold [12]; expected 0 to 10, or 11" in str(wrong.exception)
    bare = CliRunner().invoke(app, ["train-float", str(labelled), "--out", str(tmp_path / "x")])
    assert isinstance(bare.exception, OptionError)
    assert "ends in .safetensors" in str(bare.exception)


def test_a_drawn_world_that_lost_labels_is_refused(tmp_path: Path) -> None:
    world = tmp_path / "world"
    drawn = ["world", "--out", str(world), "--frames", "3", "--size", "64x64", "--labels"]
    assert CliRunner().invoke(app, drawn).exit_code == 0
    sorted((world / "classes").glob("*.png"))[-1].unlink()
    arguments = [
        "train-float",
        str(world),
        "--size",
        "64x48",
        "--out",
        str(tmp_path / "w.safetensors"),
    ]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, InputError)
    assert "has more frames than the 2 label pictures" in str(refused.exception)


@pytest.fixture
def three_classes(labelled: Path) -> Path:
    """The same in the classes of the model `tiny`."""
    for path in (labelled.parent / "train_labels").glob("*.png"):
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 11, 255, ids).astype(np.uint8)).save(path)
    return labelled


def test_quantized_training_learns_from_labels(
    three_classes: Path, shelf: Shelf, tmp_path: Path
) -> None:
    out = tmp_path / "models" / "learned"
    done = train(out, str(three_classes), "--labelled", *LEARN, "--steps", "6")
    assert done.exit_code == 0, done.output
    assert "from labels" in Shelf(tmp_path / "models").card("learned").training


def test_the_papers_schedule_runs_on_a_slice(
    three_classes: Path, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Schedule] = []

    def cut(network: Any, loss: Any, batches: Any, plan: Schedule, *rest: Any) -> Trainer[Any]:
        asked.append(plan)
        return Trainer(network, loss, batches, replace(plan, steps=2), *rest)

    monkeypatch.setattr("resq_core.training.Trainer", cut)
    options = ("--model", "tiny", "--precision", "W8A8->W8A4", "--recipe", "paper")
    small = ("--batch", "2", "--crop", "48x32")
    done = train(tmp_path / "whole", str(three_classes), *options, *small)
    assert done.exit_code == 0, done.output
    assert (
        train(tmp_path / "cut", str(three_classes), *options, *small, "--steps", "3").exit_code == 0
    )
    paper = Schedule(
        484 * 3 // 2,
        5e-4,
        optimizer=Optimizer.SGD,
        scale_rate=5e-4,
        weight_decay=5e-4,
        most=math.inf,
    )
    assert asked == [paper, replace(paper, steps=3)]
    big = train(tmp_path / "big", str(three_classes), *options)
    assert "expected at least the crop, 1024x1024" in str(big.exception)


def test_a_recipe_of_ones_own(clip: Path, shelf: Shelf, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('precision = "W8A8->W8A4"\nmodel = "tiny"\nsteps = 2\nbatch = 2\n')
    out = tmp_path / "out"
    assert train(out, str(clip), "--recipe", str(mine)).exit_code == 0
    assert json.loads((out / "losses.ndjson").read_text())["step"] == 2
    assert train(out, str(clip), "--recipe", str(mine), "--steps", "1").exit_code == 0
    cases = (
        ("papre", "no recipe is called 'papre'; did you mean paper?"),
        (str(tmp_path / "none.toml"), "none.toml cannot be read: No such file"),
        ("stpes = 4", "no option is called 'stpes'; did you mean steps?"),
        ("recipe = 'paper'", "no option is called 'recipe'"),
        ("steps = [", "is not TOML"),
    )
    for text, words in cases:
        if " = " in text:
            mine.write_text(text)
            text = str(mine)
        refused = train(out, str(clip), "--precision", "W8A8", "--recipe", text)
        assert isinstance(refused.exception, OptionError)
        assert words in str(refused.exception)
    mine.write_text('steps = "many"')
    refused = train(out, str(clip), "--precision", "W8A8", "--recipe", str(mine))
    assert refused.exit_code == 2
    assert "--steps" in refused.output
    assert "valid integer" in refused.output
