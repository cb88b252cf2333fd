"""The door over real sockets: keys, scopes, origins, limits, headers, and what logs say of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as connect_raw
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from service.client import RemoteError, connect
from service.keys import FILE, Scope, add_key, revoke_key
from service.messages import Ended, StreamStart
from service.protocol import BEARER_PREFIX, SUBPROTOCOL
from tests.service.conftest import SlowEngine, colour, encoded
from tests.service.test_clips import clip_bytes
from tests.service.test_streams import metric, until_closed

Serve = Callable[..., str]
ALL = tuple(Scope)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def key(data: Path) -> str:
    return add_key(data, "all", ALL)[1]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@contextlib.asynccontextmanager
async def knock(address: str, *offers: str, **options: Any) -> AsyncIterator[Any]:
    """A bare connection, whatever it offers."""
    url = options.pop("url", address.replace("http", "ws") + "/v1/streams")
    offered = [Subprotocol(name) for name in (SUBPROTOCOL, *offers)]
    async with connect_raw(url, subprotocols=offered, compression=None, **options) as found:
        yield found


async def refused(address: str, *offers: str, **options: Any) -> tuple[int, str]:
    async with knock(address, *offers, **options) as found:
        assert found.subprotocol == SUBPROTOCOL
        _, code, reason = await until_closed(found)
    return code, reason


async def welcome(address: str, *offers: str, **options: Any) -> bool:
    async with knock(address, *offers, **options) as found:
        assert found.subprotocol == SUBPROTOCOL, "the server never echoes a key"
        await found.send('{"type": "stream.start"}')
        return "stream.started" in await found.recv()


async def test_a_key_lists_its_own_streams_and_an_operators_all(serve: Serve, data: Path) -> None:
    scopes = {"one": Scope.STREAM, "two": Scope.STREAM, "boss": Scope.ADMIN}
    keys = {name: add_key(data, name, (scope,))[1] for name, scope in scopes.items()}
    address = serve()
    async with knock(address, additional_headers=bearer(keys["one"])) as socket:
        await socket.send('{"type": "stream.start", "id": "yard"}')
        assert "stream.started" in await socket.recv()
        lists = {
            name: httpx.get(f"{address}/v1/streams", headers=bearer(key)).json()
            for name, key in keys.items()
        }
    seen = {name: [s["id"] for s in found["streams"]] for name, found in lists.items()}
    assert seen == {"one": ["yard"], "two": [], "boss": ["yard"]}
    assert {name: found["all"] for name, found in lists.items()} == {
        "one": False,
        "two": False,
        "boss": True,
    }


def as_subprotocol(key: str) -> str:
    return BEARER_PREFIX + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def test_every_path_but_the_open_ones_needs_a_key(serve: Serve, key: str) -> None:
    address = serve()
    for path in ("/", "/web/app.js", "/healthz"):
        assert httpx.get(address + path).status_code == 200
    assert httpx.get(f"{address}/readyz").status_code in (200, 503)
    schema = httpx.get(f"{address}/openapi.json", headers=bearer(key)).json()
    calls = {
        (method.upper(), path.replace("{name}", "x"))
        for path, methods in schema["paths"].items()
        for method in methods
        if path not in ("/healthz", "/readyz", "/metrics")
    }
    assert len(calls) > 10
    for method, path in calls | {("GET", "/openapi.json"), ("GET", "/nope"), ("GET", "//web/")}:
        answer = httpx.request(method, address + path)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"] == 'Bearer realm="resq"'
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json()["code"] == "no_key"
    assert metric(address, "resq_admission_rejects_total") == len(calls) + 3


def test_a_wrong_key_is_no_key(serve: Serve, key: str) -> None:
    address = serve()
    last = "0" if key[-1] != "0" else "1"
    tries = [f"Bearer {key[:-1]}{last}", f"Basic {key}", f"Token {key}", "Bearer", key]
    for value in tries:
        answer = httpx.get(f"{address}/v1/models", headers={"authorization": value})
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert answer.json()["detail"] == "the API key is unknown or revoked"
        assert key.split("_")[2] not in answer.text
    assert httpx.get(f"{address}/v1/models", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.STREAM, {"/v1/models", "/v1/streams"}),
        (Scope.CLIPS, {"/v1/models", "/v1/clips"}),
        (Scope.ADMIN, {"/v1/models", "/v1/streams"}),
    ],
)
async def test_a_scope_opens_its_own_and_no_more(
    serve: Serve, data: Path, scope: Scope, allowed: set[str]
) -> None:
    key = add_key(data, "one", (scope,))[1]
    address = serve()
    for path in ("/v1/models", "/v1/clips", "/v1/streams"):
        answer = httpx.get(address + path, headers=bearer(key))
        assert answer.status_code == (200 if path in allowed else 403), path
        if path not in allowed:
            assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
            assert answer.json()["code"] == "wrong_scope"
    if scope is Scope.STREAM:
        assert await welcome(address, additional_headers=bearer(key))
    else:
        code, reason = await refused(address, additional_headers=bearer(key))
        assert code == 4403
        assert "expected stream" in reason
    everything = add_key(data, "all", ALL)[1]
    assert httpx.delete(f"{address}/v1/streams/x", headers=bearer(everything)).status_code == 404


async def test_a_stream_takes_the_key_either_way(serve: Serve, key: str) -> None:
    address = serve()
    assert await welcome(address, as_subprotocol(key))
    assert await welcome(address, additional_headers=bearer(key))
    assert await refused(address) == (4401, "this server needs an API key")
    for wrong in (as_subprotocol(key[:-1] + "x"), BEARER_PREFIX + "A", BEARER_PREFIX + "w6k"):
        assert await refused(address, wrong) == (4401, "the API key is unknown or revoked")
    assert metric(address, "resq_ws_closes_total") >= 4


async def test_the_client_takes_a_key(
    serve: Serve, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = serve()
    monkeypatch.delenv("RESQ_KEY", raising=False)
    with pytest.raises(RemoteError, match="this server needs an API key; expected one in RESQ_KEY"):
        async with connect(address, StreamStart()):
            pass
    async with connect(address, StreamStart(), key=key) as stream:
        assert stream.started.model == "tiny"
    monkeypatch.setenv("RESQ_KEY", key)
    async with connect(address, StreamStart()) as stream:
        assert stream.started.model == "tiny"


async def test_a_revoked_key_ends_what_it_started(serve: Serve, data: Path, key: str) -> None:
    address = serve()
    other = add_key(data, "other", ALL)[1]
    async with (
        connect(address, StreamStart(mode="lossless"), key=key) as stream,
        connect(address, StreamStart(), key=other) as unharmed,
        knock(address, additional_headers=bearer(key)) as silent,
    ):
        await stream.send(encoded(colour(0)))
        await stream.receive()
        revoke_key(data, "all")
        assert httpx.get(f"{address}/v1/models", headers=bearer(key)).status_code == 401
        async with asyncio.timeout(20):
            last = [answer async for answer in stream][-1]
        assert isinstance(last, Ended)
        assert (last.reason, last.received, last.results) == ("key_revoked", 1, 1)
        with pytest.raises(RemoteError, match="4401 key_revoked"):
            await stream.receive()
        assert (await until_closed(silent))[1:] == (4401, "key_revoked"), "even before its start"
        await unharmed.send(encoded(colour(0)))
        await unharmed.receive()


def test_a_revoked_key_ends_an_upload(serve: Serve, data: Path, key: str) -> None:
    address = serve()
    other = add_key(data, "other", ALL)[1]
    ended = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield bytes(1000)
        revoke_key(data, "all")
        ended.wait(20)  # the rest never comes: the server answers without it
        yield bytes(1000)

    with contextlib.suppress(httpx.HTTPError):  # it may hang up before the answer is read

        def wait() -> None:
            deadline = time.perf_counter() + 20
            while list((data / "clips").glob("*")) and time.perf_counter() < deadline:
                time.sleep(0.05)
            ended.set()

        waiting = threading.Timer(0.5, wait)
        waiting.start()
        answer = httpx.post(f"{address}/v1/clips", content=slowly(), headers=bearer(key))
        assert answer.status_code == 401
    waiting.join()
    assert list((data / "clips").glob("*")) == []
    assert httpx.get(f"{address}/v1/clips", headers=bearer(other)).json() == {"clips": []}


def test_a_revoked_key_ends_what_it_follows(
    serve: Serve, data: Path, key: str, engine: SlowEngine
) -> None:
    engine.seconds = 0.2
    address = serve()
    other = add_key(data, "other", ALL)[1]
    post = httpx.post(f"{address}/v1/clips", content=clip_bytes(200), headers=bearer(other))
    job = f"{address}/v1/clips/{post.json()['id']}"
    lines: list[str] = []

    def follow() -> None:
        url = f"{job}/results?follow=true"
        with httpx.stream("GET", url, headers=bearer(key)) as answer:
            for line in answer.iter_lines():
                if not lines:
                    revoke_key(data, "all")
                lines.append(line)

    with pytest.raises(httpx.RemoteProtocolError):
        follow()
    assert lines
    assert httpx.get(job, headers=bearer(other)).json()["state"] == "running"


async def test_the_first_key_closes_an_open_server(serve: Serve, data: Path) -> None:
    address = serve()
    assert httpx.get(f"{address}/v1/models").status_code == 200
    assert await welcome(address)
    key = add_key(data, "first", ALL)[1]
    assert httpx.get(f"{address}/v1/models").status_code == 401
    assert (await refused(address))[0] == 4401
    assert await welcome(address, as_subprotocol(key))
    (data / FILE).unlink()
    assert httpx.get(f"{address}/v1/models", headers=bearer(key)).status_code == 401


def test_keys_can_be_required_before_there_are_any(serve: Serve, data: Path) -> None:
    address = serve(require_keys=True)
    assert httpx.get(f"{address}/v1/models").status_code == 401
    key = add_key(data, "first", ALL)[1]
    assert httpx.get(f"{address}/v1/models", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize("with_keys", [False, True])
async def test_pages_of_other_origins_are_turned_away(
    serve: Serve, data: Path, with_keys: bool
) -> None:
    headers = bearer(add_key(data, "all", ALL)[1]) if with_keys else {}
    address = serve(allowed_origins="https://Wall.example/, http://b.example:8080")
    strange = ("https://evil.example", "null", "", "http://127.0.0.1:1", "http://[", "file://")
    for origin in strange:
        code, reason = await refused(address, additional_headers=headers | {"origin": origin})
        assert code == 4403
        assert "origin is" in reason
        for method, path in (("POST", "/v1/clips"), ("DELETE", "/v1/clips/x")):
            answer = httpx.request(method, address + path, headers=headers | {"origin": origin})
            assert answer.status_code == 403
            assert answer.json()["code"] == "wrong_origin"
        answer = httpx.get(f"{address}/v1/models", headers=headers | {"origin": origin})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers, "it cannot read this"
    for origin in (address, address.upper(), "https://wall.example", "http://b.example:8080"):
        assert await welcome(address, additional_headers=headers | {"origin": origin})
        path = f"{address}/v1/clips/x"
        assert httpx.delete(path, headers=headers | {"origin": origin}).status_code == 404
    path = f"{address}/v1/clips/x"
    behind = headers | {"origin": "https://cams.example", "host": "cams.example:443"}
    assert httpx.delete(path, headers=behind).status_code == (404 if with_keys else 421)


async def test_without_keys_a_borrowed_name_is_turned_away(serve: Serve, data: Path) -> None:
    """DNS rebinding: evil.example points at this machine, and its page is of the same origin."""
    address = serve(allowed_origins="https://wall.example")
    port = int(address.rsplit(":", 1)[1])
    url = f"ws://evil.example:{port}/v1/streams"
    rebound = {
        "url": url,
        "host": "127.0.0.1",
        "port": port,
        "origin": f"http://evil.example:{port}",
    }
    code, reason = await refused(address, **rebound)
    assert code == 4403
    assert "host is 'evil.example'" in reason
    for name in (f"evil.example:{port}", "evil.example", "127.0.0.1.evil.example", "[", "a:b:c"):
        answer = httpx.get(f"{address}/v1/models", headers={"host": name})
        assert answer.status_code == 421, name
    for name in ("localhost", f"LOCALHOST:{port}", "[::1]:80", "127.8.9.1", "wall.example"):
        assert httpx.get(f"{address}/v1/models", headers={"host": name}).status_code == 200, name
    key = add_key(data, "all", ALL)[1]
    named = bearer(key) | {"host": "cams.example"}
    assert httpx.get(f"{address}/v1/models", headers=named).status_code == 200


def test_a_server_open_to_others_answers_to_names_that_no_page_can_have(serve: Serve) -> None:
    address = serve(insecure=True, allowed_origins="https://wall.example")
    for name in ("evil.example", "server.", "192.168.0.7.evil.example", "[", ""):
        answer = httpx.get(f"{address}/v1/models", headers={"host": name})
        assert answer.status_code == 421, name
        assert "RESQ_ALLOWED_ORIGINS" in answer.json()["detail"]
    for name in ("localhost", "server:8000", "192.168.0.7:80", "[fd00::1]:80", "wall.example"):
        assert httpx.get(f"{address}/v1/models", headers={"host": name}).status_code == 200, name


def test_metrics_are_for_this_machine_and_for_admins(serve: Serve, data: Path, key: str) -> None:
    address = serve()
    url = f"{address}/metrics"
    assert httpx.get(url).status_code == 200
    through_proxy = {"x-forwarded-for": "203.0.113.5"}
    for headers in (through_proxy, {"host": "cams.example"}):
        assert httpx.get(url, headers=headers).status_code == 401
        assert httpx.get(url, headers=headers | bearer(key)).status_code == 200
    stream = bearer(add_key(data, "s", (Scope.STREAM,))[1])
    assert httpx.get(url, headers=stream | through_proxy).status_code == 403
    opened = serve(metrics_open=True, require_keys=True, data_dir=data.parent / "other")
    assert httpx.get(f"{opened}/metrics", headers=through_proxy).status_code == 200


def test_requests_are_limited_for_each_key(serve: Serve, data: Path, key: str) -> None:
    other = add_key(data, "other", ALL)[1]
    address = serve(requests_per_minute=5)
    url = f"{address}/v1/models"
    for _ in range(5):
        assert httpx.get(url, headers=bearer(key)).status_code == 200
    answer = httpx.get(url, headers=bearer(key))
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 12
    assert answer.json()["code"] == "too_much"
    assert "requests_per_minute is 5" in answer.json()["detail"]
    assert httpx.get(url, headers=bearer(other)).status_code == 200
    assert httpx.get(f"{address}/healthz").status_code == 200, "probes are not counted"


def test_guesses_are_limited_for_each_address(serve: Serve, key: str) -> None:
    address = serve(requests_per_minute=5)
    url = f"{address}/v1/models"

    def guess(origin: str) -> int:
        headers = bearer("resq_00000000_" + "0" * 64) | {"x-forwarded-for": origin}
        return httpx.get(url, headers=headers).status_code

    assert [guess("203.0.113.5") for _ in range(7)] == [401] * 5 + [429] * 2
    assert guess("203.0.113.6") == 401
    near = ["2001:db8::1", "2001:db8::2:3", "2001:db8:0:0:ffff::"]  # one client's network
    assert [guess(near[i % 3]) for i in range(6)] == [401] * 5 + [429]
    assert guess("2001:db8:0:1::1") == 401
    same = bearer(key) | {"x-forwarded-for": "203.0.113.5"}
    assert httpx.get(url, headers=same).status_code == 200, "a good key has its own bucket"


async def test_streams_are_limited_for_each_client(serve: Serve, data: Path, key: str) -> None:
    other = bearer(add_key(data, "other", ALL)[1])
    mine = bearer(key)
    address = serve(streams_per_client=2)
    async with connect(address, StreamStart(), key), connect(address, StreamStart(), key) as second:
        words = "you have 2 streams open; expected no more"
        assert await refused(address, additional_headers=mine) == (4429, words)
        assert await welcome(address, additional_headers=other)
        await second.end()
        async for _ in second:
            pass
        assert await welcome(address, additional_headers=mine), "a place that was left is free"


async def test_new_streams_are_limited_for_each_client(serve: Serve, data: Path, key: str) -> None:
    other = bearer(add_key(data, "other", ALL)[1])
    address = serve(streams_per_minute=1)
    assert await welcome(address, additional_headers=bearer(key))
    code, reason = await refused(address, additional_headers=bearer(key))
    assert code == 4429
    assert "streams_per_minute is 1" in reason
    assert await welcome(address, additional_headers=other)


def test_uploads_are_limited_by_the_day(serve: Serve, data: Path, key: str) -> None:
    address = serve(upload_bytes_per_day=10_000)
    url, headers = f"{address}/v1/clips", bearer(key)
    told = httpx.post(url, content=bytes(10_001), headers=headers)
    assert told.status_code == 429
    assert int(told.headers["retry-after"]) == 86_400
    untold = httpx.post(url, content=(bytes(3000) for _ in range(4)), headers=headers)
    assert untold.status_code == 429
    assert "upload_bytes_per_day is 10000" in untold.json()["detail"]
    assert httpx.get(url, headers=headers).json() == {"clips": []}
    assert list((data / "clips").glob("*")) == []
    assert httpx.post(url, content=bytes(9000), headers=headers).status_code == 429
    other = bearer(add_key(data, "other", ALL)[1])
    assert httpx.post(url, content=bytes(9000), headers=other).status_code == 202


def test_headers_of_every_answer(serve: Serve) -> None:
    address = serve()
    for path in ("/", "/web/app.js", "/v1/models", "/v1/clips", "/metrics", "/nope", "/v1/clips/x"):
        headers = httpx.get(address + path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        own = path in ("/", "/web/app.js")
        assert headers["cache-control"] == ("no-cache" if own else "no-store"), path
        assert "server" not in headers


async def _use(address: str, *keys: str) -> None:
    """Every way a key can be sent, right and wrong."""
    async with httpx.AsyncClient() as client:
        for key in keys:
            await client.get(f"{address}/v1/models", headers=bearer(key))
            await client.get(f"{address}/v1/models", headers={"authorization": key})
            for options in (
                {"additional_headers": bearer(key)},
                {"offers": as_subprotocol(key)},
                {"additional_headers": {"origin": "http://x"} | bearer(key)},
            ):
                offers = options.pop("offers", None)
                offered = [offers] if offers else []
                with contextlib.suppress(ConnectionClosed):
                    async with knock(address, *offered, **options) as found:
                        await found.send('{"type": "stream.start", "id": "%"}')
            headers = bearer(key) | {"sec-websocket-version": "3"}
            with contextlib.suppress(InvalidStatus):
                async with knock(address, additional_headers=headers):
                    pass


@pytest.mark.slow
async def test_no_log_holds_a_key(tmp_path: Path) -> None:
    key = add_key(tmp_path, "all", ALL)[1]
    wrong = key[:-8] + "00000000"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = "from service.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", str(port), "--log-level", "debug"]
    environment = os.environ | {"RESQ_DATA_DIR": str(tmp_path), "RESQ_KEY": key}
    log = tmp_path / "log"
    with log.open("wb") as file:
        server = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.perf_counter() + 100
            while "Application startup complete" not in log.read_text():
                assert time.perf_counter() < deadline, log.read_text()
                await asyncio.sleep(0.1)
            await _use(address, key, wrong)
        finally:
            server.terminate()
            await server.wait()
    text = log.read_text()
    assert "DEBUG" in text, "the log is as detailed as it gets"
    assert text.count("stream refused") >= 2, "wrong ones were told of"
    for secret in (key, wrong):
        found = secret.split("_")[2]
        assert found[:32] not in text
        assert as_subprotocol(secret)[len(BEARER_PREFIX) :][:24] not in text
