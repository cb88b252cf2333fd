"""Decoders that are killed, hang, or need too much memory: one stream or clip ends, no other."""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import Literal

import psutil
import pytest
from PIL import Image

from benchmarks import small
from benchmarks.ledger import counted
from service.messages import InputKind, StreamStart
from tests.chaos.conftest import (
    PLAIN,
    Box,
    begun,
    bystander,
    dead,
    decoders,
    feed,
    finished,
    indices,
    post,
    settled,
    short,
    warm,
)

pytestmark = pytest.mark.chaos

ROUNDS = 9
KINDS: tuple[InputKind, ...] = ("image", "h264", "vp8")
BEHIND = ("superseded", "overflow", "waiting_for_idr")  # what live frames may be dropped for


def hit(fault: str, pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            getattr(psutil.Process(pid), fault)()


@pytest.mark.parametrize("fault", ["kill", "suspend"])
async def test_a_stream_ends_whose_decoder_is_lost(box: Box, fault: str) -> None:
    reason = {"kill": "decoder_crashed", "suspend": "decoder_timeout"}[fault]
    with box(decoder_timeout=1.0, decoders=0) as server:
        level = await warm(server, spares=0)
        async with bystander(server.address) as beside:
            safe = decoders(server)
            for turn in range(ROUNDS):
                mode: Literal["live", "lossless"] = "lossless" if turn % 2 else "live"
                options = StreamStart(mode=mode, input=KINDS[turn % 3], outputs=PLAIN)
                async with counted(server.address, options) as stream:
                    feeding = asyncio.create_task(feed(stream, pause=0.005))
                    await stream.answered(5)
                    results = len(beside.ledger.results)
                    hit(fault, decoders(server) - safe)
                    async with asyncio.timeout(20):
                        await stream.closed.wait()
                    await feeding
                ledger = stream.ledger
                assert ledger.problems() == []
                assert ledger.ended is not None
                assert ledger.errors == [reason]
                assert ledger.close == (1011, reason)
                assert set(ledger.drops.values()) <= {reason, *BEHIND}
                await beside.answered(results + 2)
        await settled(server, level, spares=0)
        await short(server.address, "h264")


async def test_a_dead_spare_costs_nothing(box: Box) -> None:
    with box(decoders=2) as server:
        level = await warm(server, spares=2)
        for _ in range(ROUNDS):
            spares = decoders(server)
            hit("kill", spares)
            await asyncio.to_thread(dead, spares)
            await short(server.address)
        await settled(server, level, spares=2)


@pytest.mark.parametrize("fault", ["kill", "suspend"])
async def test_a_clip_fails_whose_decoder_is_lost(box: Box, fault: str) -> None:
    reason = {"kill": "decoder_crashed", "suspend": "decoder_timeout"}[fault]
    data = small.clip(200)
    with box(decoder_timeout=1.0, decoders=0) as server:
        level = await warm(server, spares=0)
        async with bystander(server.address):
            safe = decoders(server)
            for _ in range(4):
                lost, kept = [
                    await asyncio.to_thread(post, server.address, data, period=4) for _ in "ab"
                ]
                await asyncio.to_thread(begun, server.address, lost)
                hit(fault, decoders(server) - safe)
                state = await asyncio.to_thread(finished, server.address, lost)
                assert state["state"] == "failed"
                assert state["error"].startswith(reason)
                found = indices(server.address, lost)
                assert found == list(range(len(found))), "what was finished stays"
                assert len(found) == state["results"]
                assert (await asyncio.to_thread(finished, server.address, kept))["state"] == "done"
                assert indices(server.address, kept) == list(range(200))
        await settled(server, level, spares=0)


async def test_a_decoder_that_needs_too_much_ends_its_stream(box: Box) -> None:
    huge = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(huge, "PNG")
    with box(decoder_memory=128 << 20, max_pixels=40_000_000, decoders=0) as server:
        level = await warm(server, spares=0)
        async with bystander(server.address):
            for _ in range(ROUNDS):
                async with counted(server.address, StreamStart(mode="lossless")) as stream:
                    await stream.send(small.jpegs(small.drawn(1))[0])
                    await stream.send(huge.getvalue())
                    async with asyncio.timeout(30):
                        await stream.closed.wait()
                ledger = stream.ledger
                assert ledger.problems() == []
                assert ledger.drops == {1: "decoder_memory"}
                assert ledger.close == (1011, "decoder_memory")
        await settled(server, level, spares=0)
