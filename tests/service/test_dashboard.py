"""Every query of the dashboard, the rules and the alerts, asked of a real Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.client import RemoteError
from service.keys import Scope, add_key
from service.messages import StreamStart
from tests.deploy.monitoring import RULES, alerts, annotations, operands, queries
from tests.service.conftest import colour, encoded
from tests.service.prometheus import Prometheus, StartPrometheus, needs_prometheus
from tests.service.test_prometheus import everything
from tests.service.test_streams import eventually, talk

Serve = Callable[..., str]
Act = Callable[[], Awaitable[None]]
LIVE = StreamStart(mode="live", deadline_ms=60_000, fps=5)

pytestmark = needs_prometheus


def silent(server: Prometheus, wanted: dict[str, str]) -> dict[str, str]:
    """The queries that give no sample, or none that is a number."""
    return {
        name: query
        for name, query in wanted.items()
        if all(sample["value"][1] == "NaN" for sample in server.query(query))
    }


async def streams(address: str) -> None:
    """Whose picture changes now and then, the second one with the first deadline that is taken:
    frames that come all at once miss it."""
    pictures = [encoded(colour(i // 3)) for i in range(12)]
    await talk(address, LIVE, pictures)
    for deadline_ms in (5, 10, 20, 40, 80):
        with contextlib.suppress(RemoteError):  # an anchor takes longer
            await talk(address, StreamStart(mode="live", deadline_ms=deadline_ms), pictures)
            break


def knock(address: str) -> None:
    """Without a key, and with one that nobody made."""
    for headers in ({}, {"authorization": f"Bearer {'x' * 40}"}):
        assert httpx.get(f"{address}/v1/clips", headers=headers).status_code == 401


async def until_answered(server: Prometheus, wanted: dict[str, str], meanwhile: Act) -> None:
    """Go on with something until every query has had data once."""
    missing = wanted

    async def go_on() -> None:
        while True:
            await meanwhile()

    going = asyncio.create_task(go_on())
    try:
        async with asyncio.timeout(60):
            while missing:
                missing = await asyncio.to_thread(silent, server, missing)
                assert not going.done(), going.exception()
    except TimeoutError:
        pytest.fail(f"no data for {missing}")
    finally:
        going.cancel()


async def test_every_query_returns_data_under_load(
    serve: Serve, prometheus: StartPrometheus, tmp_path: Path
) -> None:
    address = serve(max_streams=1, idle_timeout=1.0, streams_per_minute=100_000)
    server = prometheus(address, RULES)
    await eventually(lambda: bool(server.query("up == 1")), 30)
    await everything(address)
    conditions = annotations() | {name: alert["expr"] for name, alert in alerts().items()}
    wanted = queries() | {
        f"{name}: {operand}": operand
        for name, condition in conditions.items()
        for operand in operands(condition)
    }
    of_keys = {name: wanted.pop(name) for name in list(wanted) if "no_key" in name}
    await until_answered(server, wanted, partial(streams, address))

    add_key(tmp_path / "data", "operator", tuple(Scope))  # from here on it is closed
    await until_answered(server, of_keys, partial(asyncio.to_thread, knock, address))
    for rule in server.rules():
        assert rule["health"] == "ok", rule
