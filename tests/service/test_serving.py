"""Which backend runs a model: in results, lists, metrics and logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import resq_core
from resq_core import QuantizedModel
from resq_core.backends import Backend, Serving
from resq_core.backends.choice import _tell, serving_here
from resq_core.backends.extension import native_status
from service.cli import app
from service.clip_work import ClipWork
from service.config import Config
from service.decoder import open_clip
from service.encoder import VideoWriter
from service.engine import StreamSpec
from service.local_engine import LocalEngine, Model
from tests.resq_core.elsewhere import elsewhere
from tests.service.conftest import CARD, SIZE, SlowEngine, Tiny, colour

HERE = serving_here(Backend.AUTO)


def on(backend: str, quantized: QuantizedModel) -> QuantizedModel:
    fresh = resq_core.quantize(Tiny(), "W8A8->W8A{0,4,8}", period=4, backend=backend)
    return fresh.with_encodings(quantized.encodings)


def test_a_result_names_the_backend_that_ran_it(quantized: QuantizedModel) -> None:
    frame = torch.rand(1, 3, *SIZE)
    for backend, expected in (("reference", "reference"), ("auto", HERE.backend)):
        stream = on(backend, quantized).stream()
        assert [stream.step(frame).backend for _ in range(2)] == [expected] * 2


def test_the_reference_says_why_it_serves(quantized: QuantizedModel) -> None:
    serving = on("reference", quantized).serving(torch.rand(1, 3, *SIZE))
    assert serving == Serving("reference", "it was asked for")
    assert serving.isa is None
    assert HERE.isa == native_status().isa


def test_a_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    _tell.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            _tell("of a test")
    assert [r.message for r in caplog.records].count(
        "the reference backend serves, native cannot: of a test"
    ) == 1


def test_models_say_what_serves_them_after_their_first_use(
    serve: Callable[..., str], engine: SlowEngine
) -> None:
    address = serve()
    while httpx.get(f"{address}/readyz").status_code != 200:
        pass
    found = {m["name"]: m["serving"] for m in httpx.get(f"{address}/v1/models").json()["models"]}
    assert found == {
        "tiny": {
            "backend": HERE.backend,
            "device": "cpu",
            "reason": HERE.reason,
        },
        "marker": None,
    }
    name = HERE.backend.split()[0]
    line = f'resq_backend_info{{backend="{name}",device="cpu",isa="{HERE.isa or ""}"}} 1.0'
    assert line in httpx.get(f"{address}/metrics").text.splitlines()


def test_an_engine_serves_from_another_device(quantized: QuantizedModel) -> None:
    """As from a GPU: pictures go in, and arrays come out, with the device in what is said."""
    wanted = LocalEngine({"tiny": Model(CARD, lambda: on("reference", quantized))})
    with elsewhere() as device:
        there = resq_core.quantize(Tiny(), "W8A8->W8A{0,4,8}", period=4, device="cuda")
        there = there.with_encodings(quantized.encodings)
        engine = LocalEngine({"tiny": Model(CARD, lambda: there)})
        streams = [e.open(StreamSpec("tiny")) for e in (wanted, engine)]
        for step in range(5):
            here, out = (s.step(colour(step), True, False, None) for s in streams)
            assert out.backend == f"reference ({device})"
            assert out.bit_map is not None
            assert here.bit_map is not None
            assert np.array_equal(out.bit_map, here.bit_map)
            assert np.array_equal(out.ids, here.ids)  # type: ignore[arg-type]
        serving = engine.serving("tiny")
    assert serving is not None
    assert serving.device == str(device)
    assert serving.reason == f"native runs on the CPU only, and this is {device}"


def test_streams_of_one_precision_share_what_was_planned(quantized: QuantizedModel) -> None:
    engine = LocalEngine({"tiny": Model(CARD, lambda: quantized)})
    for precision in ("W8A8->W8A4", "W8A8->W8A4", None):
        out = engine.open(StreamSpec("tiny", precision)).step(colour(0), False, False, None)
        assert out.backend == HERE.backend
    shared = {engine._model("tiny", "W8A8->W8A4"), engine._model("tiny", " W8A8->W8A4")}
    assert len(shared) == 1


def test_workers_are_the_usable_cores_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.config.usable_cores", lambda: 6)
    assert (Config().workers, Config().threads_per_frame) == (6, 1)
    assert (Config(threads=2).workers, Config(threads=2).threads_per_frame) == (2, 3)


def test_a_backend_that_is_none_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", "x.mp4", "--out", str(tmp_path), "--backend", "gpu"])
    assert done.exit_code == 2
    assert "gpu" in done.output


def test_a_clips_lines_and_report_carry_the_backend(
    quantized: QuantizedModel, tmp_path: Path
) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 10, SIZE) as video:
        for i in range(3):
            video.write(colour(i))
    engine = LocalEngine({"tiny": Model(CARD, lambda: on("reference", quantized))})
    work = ClipWork(engine, StreamSpec("tiny"), open_clip(tmp_path / "clip.mp4"), tmp_path)
    while work.advance():
        pass
    report = work.finish()
    work.close()
    lines = (tmp_path / "results.ndjson").read_text().splitlines()
    assert [json.loads(line)["backend"] for line in lines] == ["reference"] * 3
    assert report["backend"] == "reference"
