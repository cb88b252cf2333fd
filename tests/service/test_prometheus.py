"""What a real Prometheus learns from a server that has had streams, a clip, refusals and losses."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed

from service.messages import StreamStart
from service.metrics import Metrics
from tests.service.conftest import colour, encoded
from tests.service.prometheus import StartPrometheus, needs_prometheus
from tests.service.test_clips import clip_bytes, finished, post
from tests.service.test_resume import text, vanish
from tests.service.test_streams import eventually, metric, raw, talk

Serve = Callable[..., str]
LOSSLESS = StreamStart(mode="lossless", deadline_ms=60_000)
SAVING = "1 - sum(rate(resq_bops_total[1m])) / sum(rate(resq_bops_baseline_total[1m]))"

pytestmark = needs_prometheus


def families() -> set[str]:
    """Every metric that a server can have, by the name of its samples."""
    suffix = {"counter": "_total", "histogram": "_bucket"}
    found = Metrics().registry.collect()
    return {f.name + suffix.get(f.type, "") for f in found if f.name.startswith("resq_")}


async def live(address: str) -> None:
    """A stream whose picture changes once, with a frame that cannot be read."""
    frames = [encoded(colour(i // 6)) for i in range(12)] + [b"x"]
    await talk(address, LOSSLESS, frames)


async def everything(address: str) -> None:
    """Give every metric a sample: refusals and a client that vanishes included."""
    await live(address)
    job = (await asyncio.to_thread(post, address, clip_bytes(6))).json()["id"]
    await asyncio.to_thread(finished, address, job)
    async with raw(address, {"type": "stream.start", "mode": "lossless"}) as only:
        await text(only)
        with contextlib.suppress(ConnectionClosed):
            async with raw(address, {"type": "stream.start"}) as refused:
                await refused.wait_closed()
        await vanish(address, only)
    await eventually(lambda: metric(address, "resq_cache_evictions_total") == 1, 60)


async def test_prometheus_scrapes_every_metric(serve: Serve, prometheus: StartPrometheus) -> None:
    address = serve(max_streams=1, idle_timeout=1.0)
    server = prometheus(address)
    await eventually(lambda: bool(server.query("up == 1")), 30)
    await everything(address)
    await eventually(lambda: bool(server.query("resq_cache_evictions_total")), 60)
    await live(address)  # a second time: rates need a change between two scrapes
    missing = families()
    assert len(missing) > 20

    def all_there() -> bool:
        missing.difference_update({name for name in missing if server.query(name)})
        return not missing

    try:
        await eventually(all_there, 60)
    except AssertionError:
        pytest.fail(f"Prometheus has no sample of {sorted(missing)}")
    await eventually(lambda: bool(server.query(f"({SAVING}) > 0")), 60)
    [saving] = server.query(SAVING)
    assert 0 < float(saving["value"][1]) < 1
    share = "histogram_quantile(0.5, sum(rate(resq_e2e_latency_seconds_bucket[1m])) by (le))"
    [median] = server.query(share)
    assert 0 < float(median["value"][1]) < 10
    assert not server.query('{__name__=~"resq_.+", stream!=""}')
    assert not server.query('{__name__=~"resq_.+", id!=""}')


def check_metrics(exposed: str) -> subprocess.CompletedProcess[str]:
    command = ["promtool", "check", "metrics"]
    return subprocess.run(command, input=exposed, capture_output=True, text=True, check=False)


async def test_promtool_finds_nothing_to_mend(serve: Serve) -> None:
    address = serve(max_streams=1, idle_timeout=1.0)
    await everything(address)
    exposed = httpx.get(f"{address}/metrics").text
    assert {f.name for f in text_string_to_metric_families(exposed)} > {"resq_bops"}
    checked = await asyncio.to_thread(check_metrics, exposed)
    # the widths of numbers, not an amount of data; the contract has the name
    assert checked.stderr.splitlines() == [
        'resq_layer_bits use base unit "bytes" instead of "bits"',
        'resq_mean_bits use base unit "bytes" instead of "bits"',
        'resq_mean_bits_created use base unit "bytes" instead of "bits"',
    ]
