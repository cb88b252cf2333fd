"""Faults that need the server's inside, and short ones; `make chaos` has the long ones."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from benchmarks.ledger import counted
from service import heap, jobs
from service.messages import Outputs, StreamStart
from service.threads import thread_pool
from tests.chaos.proxy import network
from tests.service.conftest import SlowEngine, colour, encoded
from tests.service.test_clips import clip_bytes, finished, post
from tests.service.test_decoder_process import reordered
from tests.service.test_streams import LOSSLESS, ended, eventually, metric, resident_kib, talk

Serve = Callable[..., str]


@pytest.mark.parametrize("error", ["RuntimeError", "MemoryError", "ZeroDivisionError"])
async def test_a_worker_that_raises_ends_its_stream_only(
    serve: Serve, engine: SlowEngine, error: str
) -> None:
    address = serve()
    engine.fault = f"7 {error}"
    others = [asyncio.create_task(talk(address, LOSSLESS, [encoded(colour(0))] * 5)) for _ in "ab"]
    async with counted(address, LOSSLESS) as stream:
        with contextlib.suppress(ConnectionClosed):
            for i in range(20):
                await stream.send(encoded(colour(i)))
        async with asyncio.timeout(20):
            await stream.closed.wait()
    ledger = stream.ledger
    assert ledger.problems() == []
    assert len(ledger.results) == 7
    assert set(ledger.drops.values()) == {"internal_error"}
    assert ledger.close == (1011, "internal_error")
    for answers in await asyncio.gather(*others):
        assert ended(answers).results == 5
    assert ended(await talk(address, LOSSLESS, [encoded(colour(0))] * 9)).results == 9
    await eventually(lambda: engine.held == 0)
    assert metric(address, "resq_streams_active") == metric(address, "resq_cache_bytes") == 0


def test_a_worker_that_raises_fails_its_clip_only(serve: Serve, engine: SlowEngine) -> None:
    address = serve()
    engine.fault = "7 RuntimeError"
    first, second = (post(address, clip_bytes(12)).json()["id"] for _ in "ab")
    state = finished(address, first)
    assert (state["state"], state["results"]) == ("failed", 7)
    assert state["error"] == "the server failed on this clip; its log says more"
    lines = httpx.get(f"{address}/v1/clips/{first}/results").text.splitlines()
    assert len(lines) == 7
    assert finished(address, second)["results"] == 12


def test_a_clip_whose_end_fails_ends_no_other(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, size = serve(), jobs.kept_size

    def failing(folder: Path) -> int:
        monkeypatch.setattr(jobs, "kept_size", size)
        raise OSError("of a test")

    monkeypatch.setattr(jobs, "kept_size", failing)
    first, second = (post(address, clip_bytes(4)).json()["id"] for _ in "ab")
    state = finished(address, first)
    assert state["state"] == "failed"
    assert "its log says more" in state["error"]
    assert finished(address, second)["state"] == "done"


@pytest.mark.parametrize("mode", ["live", "lossless"])
async def test_a_stream_outlasts_a_short_cut_of_its_network(
    serve: Serve, mode: Literal["live", "lossless"]
) -> None:
    address = serve(idle_timeout=10.0)
    async with network(address) as between:
        options = StreamStart(mode=mode, outputs=Outputs(mask="none"))
        async with counted(between.address, options) as stream:
            for i in range(4):
                await stream.send(encoded(colour(i)))
                await stream.answered(i + 1)
            between.cut()
            sending = asyncio.create_task(stream.send(encoded(colour(4))))
            with pytest.raises(TimeoutError):
                await stream.answered(5, 0.5)
            between.mend()
            await sending
            await stream.answered(5)
            ledger = await stream.end()
    assert ledger.problems(whole=True) == []
    assert len(ledger.results) == 5


async def test_a_cut_that_lasts_ends_the_stream(serve: Serve, engine: SlowEngine) -> None:
    address = serve(idle_timeout=0.5)
    async with network(address) as between:
        options = StreamStart(mode="lossless", outputs=Outputs(mask="none"))
        async with counted(between.address, options) as stream:
            await stream.send(encoded(colour(0)))
            await stream.answered(1)
            between.cut()
            await eventually(lambda: httpx.get(f"{address}/v1/streams").json()["streams"] == [])
            assert engine.held == 0
            between.mend()
            async with asyncio.timeout(10):
                await stream.closed.wait()
    assert stream.ledger.problems() == []
    assert stream.ledger.close is not None
    assert stream.ledger.close[0] == 4408


@pytest.mark.parametrize("credit", [1, 2, 16])
async def test_a_codec_that_holds_frames_back_hangs_no_client(serve: Serve, credit: int) -> None:
    """B-frames: a client that waits for a credit, and a codec that waits for a frame."""
    options = StreamStart(mode="lossless", input="h264", outputs=Outputs(mask="none"))
    async with asyncio.timeout(20):
        answers = await talk(serve(credits=credit), options, reordered())
    total = ended(answers)
    assert total.received == 12
    assert set(total.drop_reasons) <= {"no_picture"}
    assert total.results == 12 if credit == 16 else total.results < 12


def test_the_threads_of_a_pool_are_there_from_its_start() -> None:
    with thread_pool(3, "of-a-test") as pool:
        names = [t.name for t in threading.enumerate() if t.name.startswith("of-a-test")]
        assert len(names) == 3
        assert sorted(pool.map(abs, range(-5, 0))) == [1, 2, 3, 4, 5]


def test_a_pool_that_gets_no_threads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name.endswith("_1"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(RuntimeError, match="can't start"):
        thread_pool(3, "of-a-test")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
async def test_free_memory_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_SECONDS", 0.0)
    kept, pieces = [], [bytearray(4000) for _ in range(50_000)]
    kept += pieces[::100]  # a hole beside each
    del pieces
    before = resident_kib()
    trimming = asyncio.create_task(heap.keep_trimmed())
    await eventually(lambda: resident_kib() < before - 100_000)
    trimming.cancel()
    assert len(kept) == 500
