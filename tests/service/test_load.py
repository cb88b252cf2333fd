"""`resq loadgen` and `resq plan` against real servers and files."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from resq_core.errors import OptionError
from service.client.errors import RemoteError
from service.client.load import Load, Step
from service.client.load_costs import costs_of
from service.client.load_figures import Count, summarize
from service.client.load_stream import LoadOptions
from service.client.server_figures import ServerFigures
from service.commands.loadgen import parse_steps
from service.keys import Scope, add_key
from service.messages import StreamStart
from tests.service.conftest import SlowEngine, colour, encoded
from tests.service.costs import costs
from tests.service.test_clips import clip_bytes
from tests.service.test_remote_commands import Resq, resq

__all__ = ["resq"]  # a fixture of its

Serve = Callable[..., str]
ROOM = {"max_streams": 16, "streams_per_client": 16}
FRAMES = [encoded(colour(i // 2), "JPEG") for i in range(6)]


@pytest.fixture(autouse=True)
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """These servers load nothing that streams would have to wait for."""
    monkeypatch.setattr("service.client.load._WARM_SECONDS", 0.1)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "street.mp4"
    path.write_bytes(clip_bytes(9))
    return path


def options(mode: Any = "live", fps: float = 40.0) -> LoadOptions:
    return LoadOptions(StreamStart(mode=mode), fps, FRAMES)


def test_frames_run_forth_and_back() -> None:
    sent = [options().frame(i) for i in range(12)]
    assert sent == [FRAMES[i] for i in (0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 1)]
    assert LoadOptions(StreamStart(), 1.0, FRAMES[:1]).frame(9) == FRAMES[0]


async def test_steps_add_streams_and_every_frame_is_accounted_for(serve: Serve) -> None:
    address = serve(**ROOM)
    seconds: list[float] = []
    async with Load(address, None, options()) as load:
        rows = [await load.step(Step(count, 1.0), seconds.append) for count in (1, 3)]
        found = costs_of(load.started, [(load.counts, rows[1])])
        async with httpx.AsyncClient() as http:
            listed = (await http.get(f"{address}/v1/streams")).json()["streams"]
        assert len(listed) == 3
    assert load.problems == []
    assert max(seconds) == 1.0
    for row, count in zip(rows, (1, 3), strict=True):
        assert (row["clients"], row["admitted"], row["refused"]) == (count, count, {})
        due = row["sent"] + row["drops"].get("skipped", 0)
        assert due == pytest.approx(40 * count * row["seconds"], rel=0.15)
        assert due == row["results"] + sum(row["drops"].values())
        assert (row["unanswered"], row["lost"]) == (0, {})
        assert row["latency_ms"]["p50"] >= sum(row["stages_ms"].values()) * 0.3
        assert row["frame_bytes"] == pytest.approx(sum(map(len, FRAMES)) / len(FRAMES), rel=0.2)
        told = row["server"]
        assert min(told["cores"], told["anchor_cpu_seconds"], told["residual_cpu_seconds"]) > 0
        if os.environ.get("TEST_ENGINE") != "ray":  # there they are the workers'
            assert told["decoder_bytes"] > 1e6, "each stream has a decoder process"
    assert (found.model, found.period) == ("tiny", 4)
    assert found.worker.anchor_ms > 0
    assert found.state_bytes is not None
    assert found.state_bytes > 0


async def test_a_server_that_is_too_slow(serve: Serve, engine: SlowEngine) -> None:
    """10 frames a second and no more: live drops the rest, lossless falls behind."""
    engine.seconds = 0.1
    address = serve(**ROOM)
    async with Load(address, None, options(fps=40.0)) as load:
        live = await load.step(Step(1, 2.0))
    assert load.problems == []
    dropped = sum(live["drops"].values())
    assert set(live["drops"]) <= {"superseded", "skipped"}
    assert live["results"] < 24
    assert live["lowest_share"] < 0.4
    assert live["results"] + dropped == pytest.approx(80, abs=6)
    async with Load(address, None, options("lossless")) as load:
        whole = await load.step(Step(1, 2.0))
    assert (whole["drops"], whole["results"]) == ({}, whole["sent"])
    assert whole["latency_ms"]["max"] > 1000, "from when a frame was due, not from when it went"


async def test_who_is_refused_and_who_is_lost(serve: Serve) -> None:
    address = serve(max_streams=2, streams_per_client=16)
    async with httpx.AsyncClient(base_url=address) as http, Load(address, None, options()) as load:
        row = await load.step(Step(3, 0.3))
        assert (row["clients"], row["admitted"], row["lost"]) == (3, 2, {})
        ((why, count),) = row["refused"].items()
        assert ("1013" in why, count) == (True, 1)
        async with Load(address, None, options()) as another:
            with pytest.raises(RemoteError, match="1013"):
                await another.step(Step(1, 0.1))
        running = asyncio.create_task(load.step(Step(2, 2.0)))
        await asyncio.sleep(0.5)
        gone = (await http.get("/v1/streams")).json()["streams"][0]["id"]
        assert (await http.delete(f"/v1/streams/{gone}")).is_success
        assert sum((await running)["lost"].values()) == 1
        row = await load.step(Step(2, 0.3))
        assert (row["admitted"], row["lost"]) == (2, {}), "another is opened for it"


def test_figures_over_counts() -> None:
    one = Count(sent=4, results=2, drops={"superseded": 2, "skipped": 1}, seconds=2.0)
    one.latencies, one.stages = [10.0, 30.0], {"infer": [8.0, 20.0], "encode": [1.0, 1.0]}
    one.anchors, one.active, one.bops, one.baseline = [True, False], [1.0, 0.2], 3.0, 12.0
    two = Count(refused=(1013, "full"))
    assert (one.due, one.open) == (5, 0)
    row = summarize([one, two])
    assert (row["clients"], row["admitted"], row["refused"]) == (2, 1, {"1013 full": 1})
    assert (row["lowest_share"], row["results_per_second"]) == (0.4, 1.0)
    assert row["latency_ms"] == {"p50": 20.0, "p95": 29.0, "p99": 29.8, "max": 30.0}
    assert row["worker_ms"] == {"anchor": 9.0, "residual": 21.0}
    assert (row["active_fraction"], row["saving"]) == (0.2, 0.75)
    assert summarize([two])["latency_ms"] == {}


def test_what_a_server_tells() -> None:
    text = "\n".join(
        (
            "process_cpu_seconds_total 3.0",
            "resq_decoder_cpu_seconds_total 1.5",
            'resq_worker_cpu_seconds_total{frame_type="anchor",model="a"} 0.5',
            'resq_worker_cpu_seconds_total{frame_type="residual",model="a"} 0.75',
            'resq_worker_cpu_seconds_total{frame_type="residual",model="b"} 0.25',
            'resq_cache_bytes{model="a"} 10',
        )
    )
    found = ServerFigures.parse(text, 1.0)
    assert found is not None
    assert (found.cpu_seconds, found.anchor_seconds, found.residual_seconds) == (4.5, 0.5, 1.0)
    assert found.state_bytes == 10
    assert ServerFigures.parse("<html>", 1.0) is None
    assert ServerFigures.parse("process_cpu_seconds_total 3.0", 1.0) is None


@pytest.mark.parametrize(
    ("text", "steps"),
    [("8", [8]), ("1..4", [1, 2, 3, 4]), ("1, 2,4..6", [1, 2, 4, 5, 6])],
)
def test_steps_as_people_write_them(text: str, steps: list[int]) -> None:
    assert parse_steps(text) == steps


@pytest.mark.parametrize("text", ["", "x", "1..", "4..1", "2,2", "3,1", "1..9999", "-1", "1.5"])
def test_steps_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="streams is "):
        parse_steps(text)


def test_loadgen_tells_people_and_programs(serve: Serve, resq: Resq, clip: Path) -> None:
    address = serve(**ROOM)
    load = ("loadgen", address, "--clip", clip, "--streams", "1..2", "--seconds", 1, "--fps", 20)
    code, text, errors = resq(*load, "--json")
    assert code == 0, errors
    told = json.loads(text)
    assert [row["admitted"] for row in told["steps"]] == [1, 2]
    assert (told["model"], told["mode"], told["fps"]) == ("tiny", "live", 20)
    assert told["costs"]["worker"]["frames"] == told["steps"][0]["results"]
    code, text, errors = resq(*load, "--lossless", "--period", 2)
    assert code == 0, errors
    for word in ("tiny", "T=2, lossless, street.mp4 at 20 fps", "BOPs saved", "cores", "none"):
        assert word in text


def test_bad_input_is_named(
    serve: Serve, engine: SlowEngine, resq: Resq, clip: Path, tmp_path: Path
) -> None:
    engine.seconds = 0.01  # 200 frames per second are too many for any machine
    full = serve(max_streams=1)
    quick = ("--clip", clip, "--seconds", 0.2)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    cases = {
        ("loadgen", "ftp://x", *quick): "url is 'ftp://x'; expected http://host:port",
        ("loadgen", "http://127.0.0.1:1", *quick): "no server answers at http://127.0.0.1:1",
        ("loadgen", full, "--clip", bad, "--seconds", 0.2): "bad.mp4",
        ("loadgen", full, "--clip", tmp_path / "none.mp4"): "none.mp4",
        ("loadgen", full, *quick, "--streams", "x"): "streams is 'x'; expected 8, 1..8",
        ("loadgen", full, *quick, "--seconds", 0): "seconds is 0; expected more than 0",
        ("loadgen", full, *quick, "--fps", 0): "fps is 0; expected more than 0",
        ("loadgen", full, *quick, "--model", "nobody"): "nobody",
        ("loadgen", full, *quick, "--fps", 200, "--declare"): "frames per second need",
    }
    for arguments, words in cases.items():
        code, _, errors = resq(*arguments)
        assert (code, words in errors) == (2, True), f"{arguments}: {errors}"


def test_a_key_is_needed_where_it_is(
    serve: Serve, resq: Resq, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = add_key(tmp_path / "data", "camera", [Scope.STREAM])
    address = serve()
    load = ("loadgen", address, "--clip", clip, "--seconds", 0.5, "--json")
    code, _, errors = resq(*load)
    assert (code, "API key" in errors) == (2, True), errors
    monkeypatch.setenv("RESQ_KEY", key)
    code, _, errors = resq(*load)
    assert code == 0, errors


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"costs": costs().model_dump(mode="json")}))
    return path


def test_plan_from_a_file(resq: Resq, measured: Path) -> None:
    wish = ("plan", "--streams", 1000, "--costs", measured, "--activity", 0.1)
    node = ("--node-cores", 16, "--node-memory", 64, "--node-network", 10, "--node-price", 0.5)
    code, text, errors = resq(*wish, *node, "--json")
    assert code == 0, errors
    told = json.loads(text)
    assert (told["plan"]["nodes"], told["plan"]["price"]) == (24, 12.0)
    assert told["costs"] == json.loads(measured.read_text())["costs"]
    code, text, errors = resq(*wish, *node, "--simulate", "--seconds", 2)
    assert code == 0, errors
    for words in ("25.0 ms on a worker + 5.0 ms", "300.0", "42 by cores (the limit)", "12.00"):
        assert words in text
    for words in (
        "simulated: 1,000 streams on 24 x 16 cores",
        "of 20,000 frames",
        "Assumed:",
        "lost worker",
    ):
        assert words in text
    code, text, _ = resq(*wish)
    assert "no price given" in text
    assert "4 cores, 16.0 GiB" in text, "the measured machine"


def test_plan_names_what_is_wrong(resq: Resq, measured: Path, tmp_path: Path) -> None:
    broken, foreign = tmp_path / "broken.json", tmp_path / "foreign.json"
    broken.write_text("{")
    unknown = costs(cores=None).model_dump(mode="json")
    foreign.write_text(json.dumps({"costs": unknown}))
    wish = ("plan", "--streams", 10)
    for arguments, words in (
        ((*wish, "--costs", tmp_path / "none.json"), "none.json"),
        ((*wish, "--costs", broken), "is no JSON"),
        ((*wish, "--costs", foreign), "the costs do not tell their machine; expected --node-cores"),
        ((*wish, "--costs", measured, "--model", "x"), "is of the model street; expected one of x"),
        ((*wish, "--costs", measured, "--fps", 100), "100 fps cannot be kept up"),
        ((*wish, "--costs", measured, "--lose", 1), "are of a simulation: --simulate"),
    ):
        code, _, errors = resq(*arguments)
        assert (code, words in errors) == (2, True), f"{arguments}: {errors}"
