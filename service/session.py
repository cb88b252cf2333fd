"""One stream's life: from `stream.start` to `stream.ended`, every frame accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from service.active_stream import ActiveStream
from service.decoder_process import DecoderLost
from service.engine import EngineError
from service.messages import StreamStart
from service.outbound import ForbiddenHostError
from service.protocol import (
    Close,
    EndRequested,
    Event,
    FrameReceived,
    Refused,
    ServerProtocol,
    StartRequested,
    UpdateRequested,
    dump,
)
from service.registry import DuplicateIdError, Slot
from service.services import Services
from service.sinks import check_sinks, open_sinks
from service.taps import Taps
from service.transport import Disconnected, Stop, Transport

__all__ = ["Session"]

_log = logging.getLogger("resq.session")
_CLOSES = {"shutdown": Close.SHUTDOWN, "key_revoked": Close.UNAUTHORIZED}


class Session:
    """One connection; `run` returns when it is closed and everything it held is free."""

    def __init__(self, services: Services, transport: Transport, slot: Slot) -> None:
        self._services, self._transport, self._slot = services, transport, slot
        self._protocol = ServerProtocol()
        self._stopping: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._running: ActiveStream | None = None

    def describe(self) -> dict[str, Any]:
        """Facts for people and programs."""
        running = self._running
        facts = running.describe() if running else {}
        return {"id": self._slot.id, **facts, **self._transport.describe()}

    @property
    def taps(self) -> Taps | None:
        """Where its results can be followed; None before it has started and after its end."""
        return self._running.taps if self._running is not None else None

    def stop(self, reason: str) -> None:
        """End the stream soon; frames on their way become drops."""
        self._halt(Stop(_CLOSES.get(reason, Close.NORMAL), reason))

    def _halt(self, stop: Stop) -> None:
        if not self._stopping.done():
            self._stopping.set_result(stop)

    async def run(self) -> None:
        """Serve the connection to its end."""
        stop = Stop(Close.INTERNAL, "internal_error")
        try:
            stop = await self._serve()
        except Disconnected:
            stop = Stop(Close.NORMAL, "disconnected")
        except Exception:
            _log.exception("a stream failed")
        finally:
            await asyncio.shield(self._finish(stop))

    async def _serve(self) -> Stop:
        start = await self._until_stopped(self._start())
        if isinstance(start, Stop):
            return start
        running = start
        async with asyncio.TaskGroup() as group:
            loops = (
                running.decode(),
                running.infer(),
                running.report(),
                running.send(),
                self._listen(running),
            )
            tasks = [group.create_task(loop) for loop in loops]
            stop = await self._stopping
            for task in tasks:
                task.cancel()
        return stop

    async def _until_stopped(
        self, start: Coroutine[Any, Any, ActiveStream | Stop]
    ) -> ActiveStream | Stop:
        task = asyncio.ensure_future(start)
        await asyncio.wait((task, self._stopping), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return self._stopping.result()

    async def _receive(self) -> Event | None:
        while True:
            try:
                async with asyncio.timeout(self._services.config.idle_timeout):
                    data = await self._transport.receive()
            except TimeoutError:
                if self._protocol.outstanding:
                    continue
                limit = self._services.config.idle_timeout
                return self._protocol.refuse(
                    "idle", f"nothing came for {limit:g} s", close=Close.IDLE
                )
            if isinstance(data, str):
                return self._protocol.receive_text(data)
            return self._protocol.receive_bytes(data)

    async def _start(self) -> ActiveStream | Stop:
        event = await self._receive()
        if isinstance(event, Refused):
            return await self._refuse(event)
        assert isinstance(event, StartRequested)
        options = event.options
        try:
            name = self._slot.name(options.id, self)
        except DuplicateIdError as error:
            refused = self._protocol.refuse("duplicate_id", str(error), "id", Close.DUPLICATE)
            return await self._refuse(refused)
        try:
            self._check_sinks(options)
        except ForbiddenHostError as error:
            refused = self._protocol.refuse("bad_options", str(error), "sinks", Close.BAD_OPTIONS)
            return await self._refuse(refused)
        spec = self._services.spec(
            options.model,
            options.precision,
            options.period,
            options.threshold,
            options.policy,
            options.reference,
            options.pose,
            options.vos,
        )
        lane = self._services.scheduler.lane()
        try:
            stream = await lane.run(lambda: self._services.engine.open(spec))
        except EngineError as error:
            refused = self._protocol.refuse(
                "bad_options", str(error), error.field, Close.BAD_OPTIONS
            )
            return await self._refuse(refused)
        config, hosts = self._services.config, self._services.hosts
        taps = Taps(name, open_sinks(name, options.sinks, config, hosts))
        self._running = ActiveStream(
            self._services, self._protocol, self._transport, stream, options, lane, taps, self._halt
        )
        try:
            await self._running.intake.open()
        except DecoderLost as lost:
            refused = self._protocol.refuse(lost.reason, str(lost), close=Close.INTERNAL)
            return await self._refuse(refused)
        await self._transport.send(self._protocol.started(self._running.started(name)))
        return self._running

    def _check_sinks(self, options: StreamStart) -> None:
        if options.sinks and not self._transport.trusted:
            raise ForbiddenHostError("sinks need a key with the scope admin")
        check_sinks(options.sinks, self._services.hosts)

    async def _refuse(self, refused: Refused) -> Stop:
        await self._transport.send(dump(refused.error))
        assert refused.close is not None
        return Stop(refused.close, refused.error.code)

    async def _listen(self, running: ActiveStream) -> None:
        while True:
            try:
                event = await self._receive()
            except Disconnected:
                self._halt(Stop(Close.NORMAL, "disconnected"))
                return
            if event is None:
                return
            if isinstance(event, FrameReceived):
                running.take(event)
            elif isinstance(event, UpdateRequested):
                running.update(event.options)
            elif isinstance(event, EndRequested):
                running.intake.end()
            elif isinstance(event, Refused):
                running.outbox.text(dump(event.error))
                if event.close is not None:
                    self._halt(Stop(event.close, event.error.code))
                    return

    async def _finish(self, stop: Stop) -> None:
        running, self._running = self._running, None
        ended = await running.free(stop.reason) if running is not None else []
        self._protocol.close()
        self._slot.release()
        if stop.reason == "disconnected":
            return
        self._services.metrics.closes.labels(str(int(stop.close))).inc()
        if stop.close is not Close.SLOW_READER:
            for text in ended:
                await self._bounded(self._transport.send(text))
        await self._bounded(self._transport.close(int(stop.close), stop.reason))

    async def _bounded(self, sending: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(Disconnected, TimeoutError):
            async with asyncio.timeout(min(5.0, self._services.config.send_timeout)):
                await sending
