"""Results on their way to files, webhooks and brokers: real ones, slow ones, hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from resq_core.tasks import mask_from_rle
from service import taps
from service.client import Result, connect
from service.config import Config
from service.keys import Scope, add_key
from service.messages import Outputs, Stats, StreamStart
from service.outbound import AllowedHosts
from service.sink_options import MqttSink, NdjsonSink, WebhookSink, signing_key
from service.sinks import open_sinks, sign
from service.taps import Lines, Sink
from tests.service.cameras import Camera, Listener
from tests.service.conftest import colour, encoded
from tests.service.test_streams import ended, raw, results, talk, until_closed

Serve = Callable[..., str]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="needs Debian's mosquitto")
HERE = AllowedHosts(("127.0.0.1", "localhost"))


def start(*sinks: Any, mask: Any = "none") -> StreamStart:
    outputs = Outputs(mask=mask)
    return StreamStart(id="door", mode="lossless", outputs=outputs, sinks=list(sinks))


def webhook(receiver: Camera, path: str = "/hook") -> WebhookSink:
    return WebhookSink(kind="webhook", url=f"http://{receiver.address}{path}", secret=SECRET)


class Receiver(Camera):
    """Keeps what is posted; `status` is what it answers, in turn, the last one for ever."""

    def __init__(self, *status: int) -> None:
        super().__init__()
        self._status = list(status)
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.answers["/hook"] = self.hook
        self.location = ""

    def hook(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        self.posts.append((self.seen[-1], body))
        handler.send_response(self._status.pop(0) if len(self._status) > 1 else self._status[0])
        if self.location:
            handler.send_header("location", self.location)
        handler.send_header("content-length", "0")
        handler.end_headers()


@contextlib.asynccontextmanager
async def opened(*options: Any, folder: Path = Path("unused"), **given: Any) -> AsyncIterator[Sink]:
    """One sink, without a stream."""
    config = Config(data_dir=folder, source_timeout=1.0, **given)
    (sink,) = open_sinks("door", options, config, HERE)
    try:
        yield sink
    finally:
        await sink.close()


async def until(sink: Sink, check: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while not check(facts := sink.describe()):  # noqa: ASYNC110 - a sink tells nobody
            await asyncio.sleep(0.01)
    return facts


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(taps, "_FIRST_WAIT", 0.0)


def test_a_signature_is_that_of_the_standard() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks."""
    found = sign(
        signing_key(SECRET),
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_file_holds_every_result(serve: Serve, tmp_path: Path) -> None:
    options = start(NdjsonSink(kind="ndjson"), mask="rle")
    answers = await talk(serve(), options, [encoded(colour(i)) for i in range(6)])
    (path,) = (tmp_path / "data" / "results").glob("door-*.ndjson")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["seq"] for r in found] == list(range(6))
    for line, result in zip(found, results(answers), strict=True):
        mask = line.pop("mask")
        meta = result.meta.model_dump(mode="json", exclude={"blobs"})
        assert line == {"stream": "door", **meta}
        assert mask["size"] == [48, 64]
        left = next(o for o in mask["objects"] if o["id"] == line["seq"] % 3)
        assert np.all(mask_from_rle(left["counts"], mask["size"])[:, :32])


@pytest.mark.parametrize("name", ["..", "...", "-", "A.b_c"])
def test_a_file_stays_in_its_folder(serve: Serve, tmp_path: Path, name: str) -> None:
    options = start(NdjsonSink(kind="ndjson")).model_copy(update={"id": name})
    asyncio.run(talk(serve(), options, [encoded(colour(0))]))
    (path,) = tmp_path.rglob("*.ndjson")
    assert path.parent == tmp_path / "data" / "results"


async def test_files_take_no_more_than_their_room(tmp_path: Path) -> None:
    options = NdjsonSink(kind="ndjson")
    line = b"x" * 99 + b"\n"
    async with opened(options, folder=tmp_path, results_max_bytes=10_000) as sink:
        for i in range(1, 51):
            for _ in range(10):
                sink.take(line)
            await until(sink, lambda facts, i=i: facts["delivered"] == 10 * i)
        sizes = [path.stat().st_size for path in (tmp_path / "results").iterdir()]
        assert 5_000 <= sum(sizes) <= 10_000
        assert len(sizes) > 1


async def test_a_disk_that_is_full_costs_lines_not_the_stream(tmp_path: Path, hasty: None) -> None:
    (tmp_path / "results").write_text("no folder")
    async with opened(NdjsonSink(kind="ndjson"), folder=tmp_path) as sink:
        sink.take(b"{}\n")
        facts = await until(sink, lambda facts: facts["lost"])
    assert facts["lost"] == {"disk": 1}
    assert "cannot be written" in facts["error"]


async def test_a_webhook_gets_signed_batches(serve: Serve) -> None:
    with Receiver(204) as receiver:
        address = serve(allowed_hosts="127.0.0.1")
        await talk(address, start(webhook(receiver)), [encoded(colour(i)) for i in range(9)])
        seqs = []
        for headers, body in receiver.posts:
            message = json.loads(body)
            assert message["type"] == "stream.results"
            seqs += [record["seq"] for record in message["data"]]
            stamp, name = int(headers["webhook-timestamp"]), headers["webhook-id"]
            assert abs(time.time() - stamp) < 60
            assert headers["webhook-signature"] == sign(signing_key(SECRET), name, stamp, body)
        names = [headers["webhook-id"] for headers, _ in receiver.posts]
        assert len(set(names)) == len(names)
        assert seqs == list(range(9))


@pytest.mark.parametrize("status", [500, 503, 408, 429])
async def test_a_webhook_is_tried_again_under_one_name(status: int, hasty: None) -> None:
    with Receiver(status, status, 200) as receiver:
        async with opened(webhook(receiver)) as sink:
            sink.take(b'{"seq":1}\n')
            facts = await until(sink, lambda facts: facts["delivered"])
        assert len(receiver.posts) == 3
        assert len({headers["webhook-id"] for headers, _ in receiver.posts}) == 1
        assert (facts["lost"], facts["error"]) == ({}, None)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 301, 307])
async def test_a_webhook_that_refuses_is_not_asked_again(status: int, hasty: None) -> None:
    with Receiver(status) as receiver, Listener(lambda connection: None) as canary:
        receiver.location = f"http://{canary.address}/"
        async with opened(webhook(receiver)) as sink:
            sink.take(b"{}\n")
            facts = await until(sink, lambda facts: facts["lost"])
        assert facts["lost"] == {"refused": 1}
        assert str(status) in facts["error"]
        assert (len(receiver.posts), canary.connections) == (1, 0)


async def test_a_webhook_is_given_up_at_last(hasty: None) -> None:
    with Receiver(500) as receiver:
        async with opened(webhook(receiver)) as sink:
            sink.take(b"{}\n")
            await until(sink, lambda facts: facts["lost"] == {"refused": 1})
        assert len(receiver.posts) == 8


async def test_a_webhook_that_hangs_slows_nothing(serve: Serve) -> None:
    with Camera() as receiver:
        receiver.answers["/hook"] = receiver.hang
        address = serve(allowed_hosts="127.0.0.1", source_timeout=60.0)
        async with asyncio.timeout(20):
            frames = [encoded(colour(i)) for i in range(20)]
            answers = await talk(address, start(webhook(receiver)), frames)
        assert ended(answers).results == 20
    assert httpx.get(f"{address}/v1/streams").json()["streams"] == []


async def test_what_is_lost_is_counted_and_told(serve: Serve, monkeypatch: Any) -> None:
    monkeypatch.setattr(taps, "_SINK_LINES", 3)
    with Camera() as receiver:
        receiver.answers["/hook"] = receiver.hang
        address = serve(allowed_hosts="127.0.0.1", source_timeout=60.0)
        async with connect(address, start(webhook(receiver))) as stream:
            seen = 0
            stats: Stats | None = None
            async with asyncio.timeout(20):
                while stats is None or not stats.sinks[0].lost:
                    await stream.send(encoded(colour(0)))
                    while not isinstance(answer := await stream.receive(), Result):
                        stats = answer if isinstance(answer, Stats) else stats
                    seen += 1
            facts = httpx.get(f"{address}/v1/streams/door").json()["sinks"][0]
        state = stats.sinks[0]
        assert list(state.lost) == ["queue_full"]
        assert state.waiting <= 3 + 1
        assert facts["lost"]["queue_full"] + facts["waiting"] == seen
        assert facts["target"] == f"http://{receiver.address}/hook"


async def test_a_hook_that_points_inside_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def rebound(host: Any, *args: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host == "hook.example" else host, *args, **options)

    with Receiver(200) as receiver:
        options = webhook(receiver)
        url = options.url.replace("127.0.0.1", "hook.example")
        config = Config(source_timeout=1.0)
        hosts = AllowedHosts(("hook.example",))
        monkeypatch.setattr(socket, "getaddrinfo", rebound)
        (sink,) = open_sinks("door", [options.model_copy(update={"url": url})], config, hosts)
        sink.take(b"{}\n")
        facts = await until(sink, lambda facts: facts["lost"])
        await sink.close()
        assert facts["lost"] == {"forbidden": 1}
        assert receiver.posts == []


@contextlib.contextmanager
def broker(folder: Path, port: int = 0, certificate: str | None = None) -> Iterator[int]:
    """A mosquitto that knows `resq` with `hush`, over TLS if it gets a name to be certified."""
    assert MOSQUITTO is not None
    if port == 0:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    words = folder / "words"
    passwd = shutil.which("mosquitto_passwd")
    assert passwd is not None
    words.write_text("resq:hush\n")
    subprocess.run([passwd, "-U", str(words)], check=True, capture_output=True)
    words.chmod(0o644)
    settings = folder / "mosquitto.conf"
    settings.write_text(
        f"listener {port} 127.0.0.1\npassword_file {words}\nallow_anonymous false\nuser root\n"
        + (certified(folder, certificate) if certificate else "")
    )
    with subprocess.Popen([MOSQUITTO, "-c", str(settings)], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield port
        finally:
            process.kill()


def certified(folder: Path, name: str) -> str:
    """Lines of settings for a certificate of its own authority, in `folder`/tls.pem."""
    key, file = folder / "key.pem", folder / "tls.pem"
    made = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name}"
    named = f"-addext subjectAltName=DNS:{name} -keyout {key} -out {file}"
    subprocess.run(["openssl", *made.split(), *named.split()], check=True, capture_output=True)
    return f"keyfile {key}\ncertfile {file}\n"


def mqtt(
    port: int, qos: Any = 1, password: str = "hush", place: str = "mqtt://127.0.0.1"
) -> MqttSink:
    url = f"{place}:{port}"
    return MqttSink(
        kind="mqtt", url=url, topic="site/a", qos=qos, username="resq", password=password
    )


@needs_broker
@pytest.mark.parametrize("qos", [0, 1])
async def test_a_broker_gets_every_result(serve: Serve, tmp_path: Path, qos: int) -> None:
    address = serve(allowed_hosts="127.0.0.1")
    with broker(tmp_path) as port:
        login = {"username": "resq", "password": "hush"}
        async with aiomqtt.Client("127.0.0.1", port, **login) as client:
            await client.subscribe("site/a/#", qos=1)
            frames = [encoded(colour(i)) for i in range(7)]
            await talk(address, start(mqtt(port, qos), mask="polygons"), frames)
            found = []
            async with asyncio.timeout(10):
                async for message in client.messages:
                    assert message.topic.value == "site/a/door/results"
                    assert isinstance(message.payload, bytes)
                    found.append(json.loads(message.payload))
                    if len(found) == 7:
                        break
    assert [r["seq"] for r in found] == list(range(7))
    assert found[0]["mask"]["format"] == "polygons"


@needs_broker
@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("other.example", False)])
async def test_a_broker_proves_its_name(
    tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool
) -> None:
    """The connection goes to an address that was looked at; the certificate is the name's."""
    with broker(tmp_path, certificate=name) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.pem"))
        async with opened(mqtt(port, place="mqtts://localhost")) as sink:
            sink.take(b"{}\n")
            facts = await until(sink, lambda facts: facts["delivered"] or facts["lost"])
    assert facts["target"] == f"mqtts://localhost:{port}/site/a/door/results"
    assert facts["lost"] == ({} if trusted else {"unreachable": 1})


@needs_broker
async def test_a_broker_that_is_restarted(tmp_path: Path) -> None:
    with broker(tmp_path) as port:
        (sink,) = open_sinks("door", [mqtt(port)], Config(source_timeout=1.0), HERE)
        sink.take(b"1\n")
        await until(sink, lambda facts: facts["delivered"] == 1)
    sink.take(b"2\n")
    await until(sink, lambda facts: facts["error"])
    with broker(tmp_path, port):
        sink.take(b"3\n")
        facts = await until(sink, lambda facts: facts["delivered"] == 3)
        await sink.close()
    assert (facts["lost"], facts["error"]) == ({}, None)


@needs_broker
async def test_a_wrong_password_is_counted_and_not_shown(tmp_path: Path, hasty: None) -> None:
    with broker(tmp_path) as port:
        async with opened(mqtt(port, password="sesame")) as sink:
            sink.take(b"{}\n")
            facts = await until(sink, lambda facts: facts["lost"])
    assert facts["lost"] == {"unreachable": 1}
    assert "sesame" not in json.dumps(facts) + repr(mqtt(port, password="sesame"))


class Counting:
    """A target that counts its lines, or does as told."""

    kind, shown, batch = "count", "nowhere", 2

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = asyncio.Event()
        self.closed = False

    async def deliver(self, lines: Sequence[bytes]) -> None:
        await self.gate.wait()
        self.batches.append(len(lines))

    async def close(self) -> None:
        self.closed = True


async def test_the_end_delivers_what_waits() -> None:
    target = Counting()
    sink = Sink(target)
    for _ in range(5):
        sink.take(b"x\n")
    target.gate.set()
    await sink.close()
    assert (target.batches, target.closed) == ([2, 2, 1], True)
    assert sink.describe()["delivered"] == 5


async def test_the_end_counts_what_it_cannot_deliver() -> None:
    target = Counting()
    sink = Sink(target)
    for _ in range(5):
        sink.take(b"x\n")
    await sink.close()
    assert target.closed
    assert sink.describe()["lost"] == {"ended": 5}


async def test_a_queue_is_bounded_in_lines_and_bytes() -> None:
    lines = Lines(3, 100)
    assert [lines.push(bytes([65 + i])) for i in range(5)] == [0, 0, 0, 1, 1]
    assert await lines.get(9) == [b"C", b"D", b"E"]
    assert lines.push(b"y" * 60) == 0
    assert lines.push(b"z" * 60) == 1
    assert lines.push(b"a" * 101) == 2
    assert len(lines) == 0
    lines.close()
    assert await lines.get() == []


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("ndjson", {"path": "/etc/passwd"}, "path"),
        ("webhook", {"url": "http://127.0.0.1/", "secret": "whsec_aHVzaA=="}, "24 to 64"),
        ("webhook", {"url": "ftp://127.0.0.1/", "secret": SECRET}, "scheme"),
        ("webhook", {"url": "http://a:b@127.0.0.1/", "secret": SECRET}, "password"),
        ("mqtt", {"url": "mqtt://u:hush@127.0.0.1"}, "mqtts://host"),
        ("mqtt", {"url": "mqtt://127.0.0.1", "topic": "a/#"}, "pattern"),
        ("mqtt", {"url": "mqtt://127.0.0.1", "qos": 2}, "0 or 1"),
        ("mqtt", {"url": "mqtt://other.example"}, "not allowed"),
        ("kafka", {}, "kafka"),
    ],
)
async def test_sinks_are_checked(
    serve: Serve, kind: str, fields: dict[str, Any], words: str
) -> None:
    address = serve(allowed_hosts="127.0.0.1")
    wanted = {"type": "stream.start", "sinks": [{"kind": kind, **fields}]}
    async with raw(address, wanted) as socket:
        messages, code, _ = await until_closed(socket)
    assert code == 4400
    assert words in messages[-1]["message"] + messages[-1]["field"]
    assert "hush" not in str(messages)


async def test_only_an_admin_has_sinks(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    plain = add_key(folder, "plain", (Scope.STREAM,))[1]
    both = add_key(folder, "both", (Scope.STREAM, Scope.ADMIN))[1]
    address = serve()
    options = start(NdjsonSink(kind="ndjson"))
    with pytest.raises(Exception, match="scope admin"):
        async with connect(address, options, plain):
            pass
    async with connect(address, options, both) as stream:
        await stream.end()
        assert [answer async for answer in stream]
    body = {"url": "http://127.0.0.1/"}
    for key, status in ((None, 401), (plain, 403), (both, 422)):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = httpx.post(f"{address}/v1/streams", json=body, headers=headers)
        assert answer.status_code == status


def test_secrets_are_in_no_repr() -> None:
    with Receiver(200) as receiver:
        assert SECRET not in repr(start(webhook(receiver)))
    with pytest.raises(ValidationError):
        WebhookSink(kind="webhook", url="http://127.0.0.1/", secret="short")


async def test_results_are_followed_live(serve: Serve) -> None:
    address = serve()
    async with connect(address, start(mask="rle")) as stream:

        async def send(count: int) -> None:
            for i in range(count):
                await stream.send(encoded(colour(i)))
                while not isinstance(await stream.receive(), Result):
                    pass

        url = f"{address}/v1/streams/door/results"
        async with httpx.AsyncClient() as client, client.stream("GET", url) as answer:
            assert answer.headers["content-type"] == "application/x-ndjson"
            lines = answer.aiter_lines()
            first = asyncio.ensure_future(anext(lines))
            while not first.done():
                await send(1)
            found = [json.loads(first.result())]
            await stream.end()
            found += [json.loads(line) async for line in lines]
        assert [answer async for answer in stream]
    assert found[0]["mask"]["format"] == "rle"
    seqs = [r["seq"] for r in found]
    assert seqs == sorted(set(seqs))
    assert httpx.get(url).status_code == 404


async def test_a_slow_follower_gets_the_newest() -> None:
    lines = Lines(2, 1 << 20)
    for i in range(10):
        lines.push(b"%d" % i)
    assert await lines.get(5) == [b"8", b"9"]
