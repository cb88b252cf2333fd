"""Objects followed over a real WebSocket and as clips."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from resq_core.pipelines import QuantizedStm
from service.cli import app
from service.client import Result, connect
from service.config import Config
from service.encoder import VideoWriter
from service.local_engine import LocalEngine, Model
from service.messages import (
    ErrorMessage,
    ObjectMask,
    Outputs,
    StreamStart,
    StreamUpdate,
    VosStart,
)
from service.server import Server, running
from tests.resq_core.evaluation.layouts import write_davis
from tests.service.conftest import SIZE, STM_CARD, encoded, square
from tests.service.test_clips import finished
from tests.service.test_streams import drops, ended, raw, results, talk, until_closed

Serve = Callable[..., str]


@pytest.fixture(scope="module")
def engine(quantized_stm: QuantizedStm) -> LocalEngine:
    return LocalEngine({"stm": Model(STM_CARD, lambda: quantized_stm)})


@pytest.fixture(scope="module")
def address(engine: LocalEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = Config(model="stm", threads=1, data_dir=tmp_path_factory.mktemp("data"))
    with ExitStack() as stack:
        yield stack.enter_context(running(Server(config, engine, log_level="error")))


def png(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> str:
    """Masks 1, 2, ... as a palette PNG in base64; boxes are top, bottom, left, right."""
    ids = np.zeros(size, np.uint8)
    for i, (top, bottom, left, right) in enumerate(boxes, 1):
        ids[top:bottom, left:right] = i
    picture = Image.fromarray(ids, mode=None).convert("P")
    out = io.BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def start(**vos: Any) -> StreamStart:
    return StreamStart(
        mode="lossless", outputs=Outputs(bit_map=True), vos=VosStart.model_validate(vos)
    )


ONE = (10, 26, 8, 24)
TWO = (30, 44, 40, 60)


async def test_masks_come_back_frame_by_frame(address: str) -> None:
    answers = await talk(address, start(png=png(ONE, TWO)), [encoded(square(i)) for i in range(4)])
    found = results(answers)
    assert [r.meta.index for r in found] == [0, 1, 2, 3]
    first = found[0].mask
    assert first is not None
    assert (first[10:26, 8:24] == 1).all()
    assert (first[30:44, 40:60] == 2).all()
    assert (first[:8] == 0).all()
    for result in found:
        assert result.mask is not None
        assert result.mask.shape == SIZE
        assert set(np.unique(result.mask)) <= {0, 1, 2}
        assert result.bit_map is not None
        assert result.meta.bops.w8a8 > 0
    assert ended(answers).results == 4


async def test_objects_by_box_and_by_run_lengths(address: str) -> None:
    objects = [
        {"id": 7, "box": [8.0, 10.0, 16.0, 16.0]},
        {"id": 9, "rle": {"size": [48, 64], "counts": [0, 48, 48 * 63]}},
    ]
    answers = await talk(address, start(objects=objects), [encoded(square(0))])
    mask = results(answers)[0].mask
    assert mask is not None
    assert (mask[10:26, 8:24] == 7).all()
    assert (mask[:, 0] == 9).all()
    assert (mask[:, 60] == 0).all()


async def test_objects_come_and_go(address: str) -> None:
    async with connect(address, start(png=png(ONE))) as stream:

        async def step(index: int) -> Result | ErrorMessage:
            await stream.send(encoded(square(index)))
            while True:
                answer = await stream.receive()
                if isinstance(answer, (Result, ErrorMessage)):
                    return answer

        assert isinstance(await step(0), Result)
        box = ObjectMask(id=5, box=[40.0, 30.0, 20.0, 14.0])
        await stream.update(StreamUpdate(add_objects=[box]))
        added = await step(1)
        assert isinstance(added, Result)
        assert added.mask is not None
        assert 5 in added.mask
        await stream.update(StreamUpdate(remove_objects=[5]))
        removed = await step(2)
        assert isinstance(removed, Result)
        assert removed.mask is not None
        assert 5 not in removed.mask
        await stream.update(StreamUpdate(add_objects=[box]))
        again = await step(3)
        assert isinstance(again, ErrorMessage)
        assert "5" in again.message
        assert not again.fatal
        answer = await stream.receive()
        while not isinstance(answer, Result):
            answer = await stream.receive()
        assert answer.meta.index == 3


@pytest.mark.parametrize(
    ("vos", "words"),
    [
        ({}, "names no object"),
        ({"png": "not base64!"}, "no base64"),
        ({"png": base64.b64encode(b"GIF89a").decode()}, "no readable PNG"),
        ({"png": png()}, "0 objects"),
        ({"objects": [{"id": 1, "box": [0, 0, 5, 5]}] * 2}, "twice"),
        ({"objects": [{"id": 1}]}, "exactly one of rle and box"),
        ({"objects": [{"id": 300, "box": [0, 0, 5, 5]}]}, "less than or equal to 255"),
        ({"objects": [{"id": i + 1, "box": [0, 0, 5, 5]} for i in range(200)]}, "at most 32"),
        ({"objects": [{"id": 1, "rle": {"size": [4, 4], "counts": [3]}}]}, "3"),
    ],
)
async def test_bad_objects(address: str, vos: dict[str, Any], words: str) -> None:
    async with raw(address, {"type": "stream.start", "vos": vos}) as socket:
        messages, code, _ = await until_closed(socket)
    assert words in messages[0]["message"]
    assert code == 4400


async def test_a_mask_of_another_size_is_said_with_every_frame(address: str) -> None:
    frames = [encoded(square(0)), encoded(square(1))]
    answers = await talk(address, start(png=png(ONE, size=(30, 30))), frames)
    assert drops(answers) == {0: "bad_frame", 1: "bad_frame"}
    message = next(a.message for a in answers if getattr(a, "seq", None) == 0)
    assert "30x30" in message
    assert "64x48" in message


def test_a_clip_with_masks(address: str) -> None:
    target = io.BytesIO()
    with VideoWriter(target, 10, SIZE) as video:
        for i in range(4):
            video.write(square(i))
    masks = base64.b64decode(png(ONE))
    files = {"clip": ("a.mp4", target.getvalue()), "masks": ("m.png", masks)}
    job = httpx.post(f"{address}/v1/clips", files=files).json()["id"]
    state = finished(address, job, 60)
    assert (state["state"], state["results"]) == ("done", 4)
    without = httpx.post(f"{address}/v1/clips", content=target.getvalue())
    assert without.status_code == 422
    assert "names no object" in without.json()["detail"]
    broken = httpx.post(f"{address}/v1/clips", files=files | {"masks": ("m.png", b"x")})
    assert broken.status_code == 422
    assert [c["id"] for c in httpx.get(f"{address}/v1/clips").json()["clips"]] == [job]


async def test_a_davis_sequence(address: str, shared: Path) -> None:
    root, name, size = shared / "data" / "davis16", "blackswan", (128, 72)
    with Image.open(root / "Annotations" / "480p" / name / "00000.png") as label:
        small = label.convert("L").resize(size, Image.Resampling.NEAREST)
    ids = (np.array(small) > 0).astype(np.uint8)
    pictures = sorted((root / "JPEGImages" / "480p" / name).glob("*.jpg"))[:3]
    out = io.BytesIO()
    Image.fromarray(ids, mode=None).save(out, "PNG")
    frames = []
    for path in pictures:
        with Image.open(path) as picture:
            frames.append(encoded(np.array(picture.convert("RGB").resize(size))))
    masks = base64.b64encode(out.getvalue()).decode()
    answers = await talk(address, start(png=masks), frames)
    found = results(answers)
    assert len(found) == 3
    first = found[0].mask
    assert first is not None
    assert np.array_equal(first > 0, ids > 0)
    assert ended(answers).bops > 0


def test_a_period_is_found_for_objects(
    quantized_stm: QuantizedStm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, masks, curve = (tmp_path / name for name in ("clip.mp4", "masks.png", "curve.json"))
    with VideoWriter(clip, 10, SIZE) as video:
        for i in range(6):
            video.write(square(i))
    Image.fromarray((square(0)[..., 0] == 220).astype(np.uint8)).save(masks)
    offered = {"stm": Model(STM_CARD, lambda: quantized_stm)}
    monkeypatch.setattr("service.local_engine.shelf_models", lambda *shelves, **_: offered)
    arguments = ["tune", "--clip", str(clip), "--model", "stm", "--max-bops", "0.9"]
    options = ["--periods", "3", "--precision", "W8A8->W8A4", "--curve", str(curve)]
    out = ["--out", str(tmp_path / "tuned.resq")]
    done = CliRunner().invoke(app, [*arguments, *options, *out, "--masks", str(masks)])
    assert done.exit_code == 0, done.output
    found = json.loads(curve.read_text())
    assert found["drop_is"].startswith("J&F")
    assert found["best"]["bops"] <= 0.9
    assert QuantizedStm.load(tmp_path / "tuned.resq").options.period == 3
    bare = CliRunner().invoke(app, [*arguments, *options])
    assert "expected --masks" in str(bare.exception)


def test_eval_scores_davis(
    quantized_stm: QuantizedStm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "stm"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(STM_CARD.model_dump_json())
    (folder / "stm.resq").write_text("what loads is the fixture")
    monkeypatch.setenv("RESQ_MODELS_DIR", str(folder.parent))
    monkeypatch.setattr("service.local_engine._load", lambda *_: quantized_stm)
    root = write_davis(tmp_path / "DAVIS", {"cow": 3}, 2016)
    options = ["--model", "stm", "--precision", "W8A8->W8A{0,4,8}", "--period", "2", "--json"]
    done = CliRunner().invoke(app, ["eval", "davis2016", str(root), *options])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["clips"], result["skipped"], result["left_out"]) == (1, [], {})
    for name in ("float", "keyframe", "hold", "resq"):
        row = result[name]
        assert (row["objects"], row["frames"]) == (1, 3)
        assert 0 <= row["J"]["mean"] <= 1
        assert row["JF"] == pytest.approx((row["J"]["mean"] + row["F"]["mean"]) / 2)
    assert result["float"]["bops"] == pytest.approx(16 * result["keyframe"]["bops"])
    assert result["hold"]["bops"] < result["keyframe"]["bops"]
