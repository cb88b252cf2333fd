"""What a real Prometheus learns from a server that has had streams, a clip, refusals and losses."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed

from service.messages import StreamStart
from service.metrics import Metrics
from tests.service.conftest import colour, encoded
from tests.service.test_clips import clip_bytes, finished, post
from tests.service.test_resume import text, vanish
from tests.service.test_streams import eventually, metric, raw, talk

Serve = Callable[..., str]
LOSSLESS = StreamStart(mode="lossless")
SAVING = "1 - sum(rate(resq_bops_total[1m])) / sum(rate(resq_bops_baseline_total[1m]))"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus is not installed (Debian: apt-get install prometheus)",
)


class Prometheus:
    """A running one. address: of its HTTP interface. target: what it scrapes."""

    def __init__(self, folder: Path, target: str) -> None:
        host = target.removeprefix("http://")
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n"
            f"scrape_configs: [{{job_name: resq, static_configs: [{{targets: ['{host}']}}]}}]\n"
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression gives now."""
        try:
            answer = httpx.get(f"{self.address}/api/v1/query", params={"query": expression})
        except httpx.TransportError:  # it has not begun to listen
            return []
        if answer.status_code == 503:  # it is starting
            return []
        body = answer.json()
        assert body["status"] == "success", body
        found: list[dict[str, Any]] = body["data"]["result"]
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    running: list[Prometheus] = []

    def start(target: str) -> Prometheus:
        running.append(Prometheus(tmp_path, target))
        return running[-1]

    yield start
    for one in running:
        one.close()


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


async def test_prometheus_scrapes_every_metric(
    serve: Serve, prometheus: Callable[[str], Prometheus]
) -> None:
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
        'resq_layer_bits use base unit "bytes" instead of "bits"'
    ]
