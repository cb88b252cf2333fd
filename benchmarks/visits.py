"""What clients do in a soak: streams of every kind, well-behaved and not, and clip jobs.

Each visit returns what it found wrong, in words; nothing where everything adds up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed

from benchmarks import small
from benchmarks.ledger import CountedStream, Refused, counted
from service.messages import InputKind, Outputs, StreamStart
from service.wire import Flags

__all__ = ["Guest"]

_KINDS: tuple[InputKind, ...] = ("image", "rgb", "h264", "vp8")
_BAD = (b"", b"<svg/>", b"\xff\xd8\xff" + bytes(40))
_SECONDS = 60.0  # for anything that a server has to answer
Body = tuple[bytes, dict[str, Any]]


class Guest:
    """Random visits to one server, one after another.

    Args:
        address: of the server.
        seed: of what it does.
        busy: how long a visitor may hang before it gives up: the server's own timeouts, and more.

    Attributes:
        starts, ends: streams that began, and ended.
        frames, results, drops: of streams; drops by reason.
        visits: by kind.
        jobs: by how they ended.
        problems: what did not add up.
    """

    def __init__(self, address: str, seed: int, busy: float) -> None:
        self._address, self._random, self._busy = address, random.Random(seed), busy
        self._material = {kind: small.bodies(kind) for kind in _KINDS}
        self._clips = [small.clip(count) for count in (5, 17, 40)]
        self.starts = self.ends = self.frames = self.results = 0
        self.drops: Counter[str] = Counter()
        self.visits: Counter[str] = Counter()
        self.jobs: Counter[str] = Counter()
        self.problems: list[str] = []

    async def visit(self) -> None:
        """One visit, to its end."""
        visits: tuple[tuple[int, Callable[[], Awaitable[None]]], ...] = (
            (12, self._whole),
            (3, self._vanish),
            (1, self._never_read),
            (1, self._silent),
            (1, self._refused),
            (3, self._job),
            (1, self._half_upload),
        )
        weights, calls = zip(*visits, strict=True)
        (call,) = self._random.choices(calls, weights)
        name = call.__name__.strip("_")
        self.visits[name] += 1
        try:
            await call()
        except (Refused, OSError, TimeoutError, httpx.HTTPError, AssertionError) as error:
            self.problems.append(f"{name}: {type(error).__name__}: {error}")

    def _options(self) -> StreamStart:
        pick = self._random.choice
        return StreamStart(
            mode=pick(("live", "lossless")),
            input=pick(_KINDS),
            period=pick((None, 2, 8)),
            deadline_ms=pick((None, None, 500)),
            outputs=Outputs(
                mask=pick(("zlib", "png", "none")), bit_map=pick((True, False)), layers=False
            ),
        )

    def _bodies(self, kind: InputKind) -> list[Body]:
        """Some frames, a few of them bad."""
        turns = self._random.randint(1, 3)
        found = (self._material[kind] * turns)[: self._random.randint(1, 16 * turns)]
        if self._random.random() < 0.2:
            place = self._random.randrange(len(found))
            found[place] = (self._random.choice(_BAD), found[place][1])
        return found

    async def _send(self, stream: CountedStream, bodies: list[Body]) -> None:
        pause = self._random.choice((0.0, 0.01, 0.05))
        with contextlib.suppress(ConnectionClosed):
            for body, meta in bodies:
                flags = Flags.ANCHOR if self._random.random() < 0.05 else Flags.NONE
                await stream.send(body, meta, flags)
                await asyncio.sleep(pause)

    def _enter(self, stream: CountedStream, whole: bool = False) -> None:
        ledger = stream.ledger
        self.ends += 1
        self.frames += len(ledger.sent)
        self.results += len(ledger.results)
        self.drops.update(ledger.reasons)
        where = f"{stream.started['mode']} {stream.started['input']}"
        self.problems += [f"{where}: {problem}" for problem in ledger.problems(whole)]

    async def _whole(self) -> None:
        options = self._options()
        async with counted(self._address, options) as stream:
            self.starts += 1
            bodies = self._bodies(options.input)
            half = len(bodies) // 2
            async with asyncio.timeout(_SECONDS):
                await self._send(stream, bodies[:half])
                if self._random.random() < 0.3:
                    period = self._random.randint(1, 9)
                    await stream.say({"type": "stream.update", "period": period})
                await self._send(stream, bodies[half:])
            ledger = await stream.end(_SECONDS)
        self._enter(stream, whole=True)
        if ledger.close != (1000, "ended"):
            self.problems.append(f"a whole stream was closed with {ledger.close}")
        if options.mode == "lossless" and not set(ledger.drops.values()) <= {
            "bad_frame",
            "waiting_for_idr",
            "no_picture",
            "deadline",
        }:
            self.problems.append(f"a lossless stream dropped {ledger.reasons}")

    async def _vanish(self) -> None:
        options = self._options()
        async with counted(self._address, options) as stream:
            self.starts += 1
            sending = asyncio.create_task(self._send(stream, self._bodies(options.input)))
            await asyncio.sleep(self._random.uniform(0.0, 0.5))
            stream.vanish()
            await stream.closed.wait()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        self._enter(stream)

    async def _never_read(self) -> None:
        options = self._options().model_copy(update={"mode": "live"})
        async with counted(self._address, options) as stream:
            self.starts += 1
            stream.stop_reading()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._random.uniform(0.5, self._busy)):
                    while not stream.closed.is_set():
                        await self._send(stream, self._bodies(options.input))
            stream.vanish()
        self._enter(stream)

    async def _silent(self) -> None:
        async with counted(self._address, self._options()) as stream:
            self.starts += 1
            async with asyncio.timeout(self._busy + _SECONDS):
                await stream.closed.wait()
        self._enter(stream)
        if stream.ledger.close is None or stream.ledger.close[0] != 4408:
            self.problems.append(f"a silent stream was closed with {stream.ledger.close}")

    async def _refused(self) -> None:
        options = self._options().model_copy(update={"precision": "W1A1->W1A1"})
        try:
            async with counted(self._address, options):
                self.problems.append("bad options were taken")
        except Refused as refused:
            if refused.code != 4400:
                self.problems.append(f"bad options were closed with {refused.code}")

    async def _job(self) -> None:
        data = self._random.choice(self._clips)
        async with httpx.AsyncClient(base_url=self._address, timeout=_SECONDS) as client:
            answer = await client.post("/v1/clips", params={"period": 4}, content=data)
            if answer.status_code == 503:  # as many wait as may
                self.jobs["refused"] += 1
                return
            assert answer.status_code == 202, answer.text
            url = answer.headers["location"]
            ending = self._random.choice(("read", "read", "delete"))
            if ending == "delete":
                await asyncio.sleep(self._random.uniform(0.0, 0.5))
            else:
                text = (await client.get(f"{url}/results", params={"follow": "true"})).text
                found = [json.loads(line)["index"] for line in text.splitlines()]
                count = (5, 17, 40)[self._clips.index(data)]
                if found != list(range(count)):
                    self.problems.append(f"a job of {count} frames has the results {found}")
            gone = await client.delete(url)
            assert gone.status_code == 204, gone.text
            self.jobs[ending] += 1

    async def _half_upload(self) -> None:
        host, port = self._address.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/clips HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 100000\r\n\r\n"
        writer.write(head.encode() + bytes(50_000))
        await asyncio.sleep(self._random.uniform(0.0, 0.2))
        writer.transport.abort()
