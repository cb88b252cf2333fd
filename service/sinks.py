"""Files, webhooks and MQTT brokers as targets of results."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import os
import secrets
import ssl
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiomqtt
import certifi
import httpx

from service.config import Config
from service.outbound import AllowedHosts, ForbiddenHostError, parse_target
from service.sink_options import (
    MQTT_SCHEMES,
    MqttSink,
    NdjsonSink,
    SinkOptions,
    WebhookSink,
    signing_key,
)
from service.source_http import tls
from service.taps import Sink, SinkError

__all__ = ["check_sinks", "open_sinks", "sign"]

_FOLDER = "results"
_SEGMENT = 16 << 20
_RETRIED = (408, 429)


def check_sinks(options: Sequence[SinkOptions], hosts: AllowedHosts) -> None:
    """Raise ForbiddenHostError unless every host is listed."""
    for one in options:
        if isinstance(one, WebhookSink):
            hosts.check(parse_target(one.url, ("http", "https")).host)
        elif isinstance(one, MqttSink):
            hosts.check(parse_target(one.url, MQTT_SCHEMES).host)


def open_sinks(
    stream: str, options: Sequence[SinkOptions], config: Config, hosts: AllowedHosts
) -> list[Sink]:
    """Sinks that connect when there is something to deliver.

    Args:
        stream: its id.
    """
    found = []
    for one in options:
        if isinstance(one, NdjsonSink):
            folder = config.data_dir / _FOLDER
            found.append(Sink(_File(stream, folder, config.results_max_bytes)))
        elif isinstance(one, WebhookSink):
            found.append(Sink(_Webhook(one, hosts, config.source_timeout)))
        else:
            found.append(Sink(_Mqtt(stream, one, hosts, config.source_timeout)))
    return found


class _File:
    """Segments of at most 16 MiB; beyond `room` bytes of all streams the oldest go."""

    kind = "ndjson"
    batch = 100

    def __init__(self, stream: str, folder: Path, room: int) -> None:
        self._stream, self._folder, self._room = stream, folder, room
        self._segment = min(_SEGMENT, room // 2)
        self._file: io.FileIO | None = None
        self.shown = f"{_FOLDER}/{stream}-*.ndjson"

    async def deliver(self, lines: Sequence[bytes]) -> None:
        try:
            await asyncio.to_thread(self._write, b"".join(lines))
        except OSError as error:
            await self.close()
            raise SinkError("disk", f"it cannot be written: {error.strerror}", True) from error

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: bytes) -> None:
        if self._file is None or self._file.tell() + len(data) > self._segment:
            self._next()
        assert self._file is not None
        start = self._file.tell()
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(start)  # or the lines would stand there twice, once in half
            raise

    def _next(self) -> None:
        if self._file is not None:
            self._file.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        path = self._folder / f"{self._stream}-{stamp}-{secrets.token_hex(4)}.ndjson"
        self._file = io.FileIO(path, "xb")
        self._make_room(path)

    def _make_room(self, newest: Path) -> None:
        """So that the newest fits when it is full."""
        found = [(p.stat().st_mtime_ns, p) for p in self._folder.glob("*.ndjson") if p != newest]
        kept = self._segment
        for _, path in sorted(found, reverse=True):
            kept += path.stat().st_size
            if kept > self._room:
                path.unlink(missing_ok=True)


def sign(key: bytes, message: str, stamp: int, body: bytes) -> str:
    """The signature header of Standard Webhooks."""
    signed = f"{message}.{stamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class _Webhook:
    kind = "webhook"
    batch = 50

    def __init__(self, options: WebhookSink, hosts: AllowedHosts, seconds: float) -> None:
        self._target = parse_target(options.url, ("http", "https"))
        self._key, self._hosts = signing_key(options.secret), hosts
        self.shown = self._target.shown
        timeout = httpx.Timeout(seconds)
        self._client = httpx.AsyncClient(verify=tls(), trust_env=False, timeout=timeout)
        self._seconds = seconds
        self._batch: Sequence[bytes] = ()
        self._id = ""

    async def deliver(self, lines: Sequence[bytes]) -> None:
        if lines is not self._batch:  # else it is tried again, and the receiver may know it
            self._batch, self._id = lines, f"msg_{secrets.token_hex(16)}"
        stamp = int(time.time())
        moment = datetime.fromtimestamp(stamp, UTC).isoformat().encode()
        records = b",".join(line.rstrip(b"\n") for line in lines)
        body = b'{"type":"stream.results","timestamp":"%s","data":[%s]}' % (moment, records)
        try:
            async with asyncio.timeout(2 * self._seconds):
                status = await self._post(stamp, body)
        except ForbiddenHostError as error:
            raise SinkError("forbidden", str(error), False) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            why = f"it does not answer: {type(error).__name__}"
            raise SinkError("unreachable", why, True) from error
        if not 200 <= status < 300:
            again = status >= 500 or status in _RETRIED
            raise SinkError("refused", f"it answers with {status}", again)

    async def _post(self, stamp: int, body: bytes) -> int:
        address = (await self._hosts.addresses(self._target))[0]
        headers = {
            "host": self._target.authority,
            "content-type": "application/json",
            "webhook-id": self._id,
            "webhook-timestamp": str(stamp),
            "webhook-signature": sign(self._key, self._id, stamp, body),
        }
        request = self._client.build_request(
            "POST",
            self._target.at(address),
            content=body,
            headers=headers,
            extensions={"sni_hostname": self._target.host},
        )
        response = await self._client.send(request, stream=True)
        await response.aclose()  # its body is of no interest
        return response.status_code

    async def close(self) -> None:
        await self._client.aclose()


class _Socket(ssl.SSLSocket):
    """Does not stay open when the handshake fails, as paho-mqtt would let it."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class _NamedContext(ssl.SSLContext):
    """Asks for the certificate of a name, whatever address the connection goes to."""

    sslsocket_class = _Socket
    name: str

    def wrap_socket(self, *given: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*given, **options | {"server_hostname": self.name})


def _tls_of(host: str) -> ssl.SSLContext:
    context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(os.environ.get("SSL_CERT_FILE") or certifi.where())  # as httpx
    context.name = host
    return context


class _Mqtt:
    kind = "mqtt"
    batch = 50

    def __init__(self, stream: str, options: MqttSink, hosts: AllowedHosts, seconds: float) -> None:
        self._options, self._hosts, self._seconds = options, hosts, seconds
        self._target = parse_target(options.url, MQTT_SCHEMES)
        self._tls = _tls_of(self._target.host) if self._target.scheme == "mqtts" else None
        self._topic = f"{options.topic.rstrip('/')}/{stream}/results"
        self.shown = f"{self._target.scheme}://{self._target.authority}/{self._topic}"
        self._connection = AsyncExitStack()
        self._client: aiomqtt.Client | None = None
        self._batch: Sequence[bytes] = ()
        self._done = 0

    async def deliver(self, lines: Sequence[bytes]) -> None:
        if lines is not self._batch:  # else some of it went through before
            self._batch, self._done = lines, 0
        try:
            client = self._client or await self._connect()
            while self._done < len(lines):
                payload = lines[self._done].rstrip(b"\n")
                await client.publish(self._topic, payload, self._options.qos)
                self._done += 1
        except ForbiddenHostError as error:
            raise SinkError("forbidden", str(error), False) from error
        except (aiomqtt.MqttError, OSError, TimeoutError) as error:
            await self.close()
            raise SinkError("unreachable", "the broker does not answer or refuses", True) from error

    async def _connect(self) -> aiomqtt.Client:
        address = (await self._hosts.addresses(self._target))[0]
        client = aiomqtt.Client(
            address,
            self._target.port,
            username=self._options.username,
            password=self._options.password,
            timeout=self._seconds,
            max_queued_outgoing_messages=2 * self.batch,
            tls_context=self._tls,
        )
        await self._connection.enter_async_context(client)
        self._client = client
        return client

    async def close(self) -> None:
        self._client = None
        connection, self._connection = self._connection, AsyncExitStack()
        try:
            await connection.aclose()
        except (aiomqtt.MqttError, OSError, TimeoutError):
            return  # it was gone already
