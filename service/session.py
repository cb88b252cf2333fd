"""One stream's life: from `stream.start` to `stream.ended`, every frame accounted for.

A stream whose connection breaks waits for its client, and goes on over the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from service.active_stream import ActiveStream
from service.admission import open_stream
from service.capacity import OverCapacityError
from service.connection import Connection
from service.decoder_process import DecoderLost
from service.engine import EngineError, WorkerLost
from service.logs import note
from service.messages import StreamStart
from service.outbound import ForbiddenHostError
from service.protocol import (
    Close,
    EndRequested,
    Event,
    FrameReceived,
    Refused,
    ResumeRequested,
    ServerProtocol,
    StartRequested,
    UpdateRequested,
    dump,
)
from service.registry import DuplicateIdError, FullError, QuotaError, Slot
from service.services import Services
from service.sinks import check_sinks, open_sinks
from service.taps import Taps
from service.transport import Disconnected, Stop, Transport

__all__ = ["Session"]

T = TypeVar("T")
_log = logging.getLogger("resq.session")
_STARTED = ("precision", "period", "threshold", "mode", "fps")  # what its log says
_CLOSES = {"shutdown": Close.SHUTDOWN, "key_revoked": Close.UNAUTHORIZED}


class Session:
    """One stream; `run` returns when it has ended and everything it held is free."""

    def __init__(self, services: Services, transport: Transport, slot: Slot) -> None:
        self._services, self._slot = services, slot
        self._protocol = ServerProtocol()
        self._connection: Connection | None = Connection(transport)
        self._next: Connection | None = None
        self._came = asyncio.Event()  # `_next` did
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._running: ActiveStream | None = None
        self._dismissing: set[asyncio.Task[None]] = set()
        slot.session = self

    @property
    def waiting(self) -> bool:
        """The stream's client vanished and may come back."""
        return self._running is not None and self._connection is None and self._next is None

    def describe(self) -> dict[str, Any]:
        """Facts for people and programs."""
        running = self._running
        if running is None:
            return {"id": self._slot.id, "state": "starting"}
        state = "waiting_for_client" if self.waiting else "running"
        client = self._connection.transport.describe() if self._connection is not None else {}
        return {"id": self._slot.id, "state": state, **running.describe(), **client}

    @property
    def taps(self) -> Taps | None:
        """Where its results can be followed; None before it has started and after its end."""
        return self._running.taps if self._running is not None else None

    def stop(self, reason: str) -> None:
        """End the stream soon; frames on their way become drops."""
        if self._connection is None and self._running is None:
            return  # this connection is another session's by now
        self._halt(Stop(_CLOSES.get(reason, Close.NORMAL), reason))

    async def adopt(self, transport: Transport) -> None:
        """Go on over another connection; returns when that is over."""
        if self._next is not None:
            self._dismiss(self._next, Stop(Close.DUPLICATE, "resumed_elsewhere"))
        connection = self._next = Connection(transport)
        self._came.set()
        self._break()
        await connection.over.wait()

    def _halt(self, stop: Stop) -> None:
        if not self._stopping.done():
            self._stopping.set_result(stop)

    def _break(self) -> None:
        if not self._broken.done():
            self._broken.set_result(None)

    async def run(self) -> None:
        """Serve the stream to its end."""
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
        note(stream=str(self._slot.id), model=start.model)
        facts = start.describe()
        self._say("stream started", client=self._slot.client, **{n: facts[n] for n in _STARTED})
        while (stop := await self._converse(start)) is None:
            stop = await self._until_stopped(self._reconnect(start))
            if stop is not None:
                self._note_eviction(start, stop)
                return stop
            assert self._connection is not None
            note(request=self._connection.request)  # it is about this one from now on
            self._say("stream resumed")
        return stop

    def _note_eviction(self, running: ActiveStream, stop: Stop) -> None:
        if self._connection is None:
            reason = "expired" if stop.reason == "disconnected" else stop.reason
            self._services.metrics.evictions.labels(running.model, reason).inc()

    async def _converse(self, running: ActiveStream) -> Stop | None:
        """Serve one connection; None when it broke and the client may come back."""
        assert self._connection is not None
        transport = self._connection.transport
        async with asyncio.TaskGroup() as group:
            loops = (
                running.work(),
                running.report(),
                running.send(transport),
                self._listen(running, transport),
            )
            tasks = [group.create_task(loop) for loop in loops]
            await asyncio.wait((self._stopping, self._broken), return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        return self._stopping.result() if self._stopping.done() else None

    async def _reconnect(self, running: ActiveStream) -> Stop | None:
        """Wait for the client and go on over its next connection; a Stop if it does not come."""
        while True:
            self._leave()
            self._say("stream waits for its client")
            await running.pause()
            try:
                async with asyncio.timeout(self._services.config.idle_timeout):
                    await self._came.wait()
            except TimeoutError:
                return Stop(Close.NORMAL, "disconnected")
            self._connection, self._next = self._next, None
            assert self._connection is not None
            self._came.clear()
            self._broken = asyncio.get_running_loop().create_future()
            with contextlib.suppress(Disconnected):  # then it waits again
                return await self._begin(running, resumed=True)

    def _leave(self) -> None:
        """Be done with the connection; where another took its place, it is told so."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._next is None:
            connection.over.set()
        else:
            self._dismiss(connection, Stop(Close.DUPLICATE, "resumed_elsewhere"))

    async def _begin(self, running: ActiveStream, resumed: bool) -> Stop | None:
        """Say `stream.started` once frames can be taken; a Stop if they cannot."""
        assert self._connection is not None
        transport = self._connection.transport
        try:
            await running.open()
        except (DecoderLost, WorkerLost) as lost:
            refused = self._protocol.refuse(lost.reason, str(lost), close=Close.INTERNAL)
            return await self._refuse(transport, refused)
        await transport.send(self._protocol.started(running.started(self._slot, resumed)))
        return None

    async def _until_stopped(self, work: Coroutine[Any, Any, T]) -> T | Stop:
        task = asyncio.ensure_future(work)
        await asyncio.wait((task, self._stopping), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return self._stopping.result()

    async def _receive(self, transport: Transport) -> Event | None:
        while True:
            try:
                async with asyncio.timeout(self._services.config.idle_timeout):
                    data = await transport.receive()
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
        assert self._connection is not None
        transport = self._connection.transport
        event = await self._receive(transport)
        if isinstance(event, ResumeRequested):
            return await self._hand_over(transport, event.token)
        opened: ActiveStream | Event | None = event
        if isinstance(event, StartRequested):
            opened = await self._open(event, transport)
        if isinstance(opened, Refused):
            return await self._refuse(transport, opened)
        assert isinstance(opened, ActiveStream)
        self._running = opened
        return await self._begin(opened, resumed=False) or opened

    async def _open(self, event: StartRequested, transport: Transport) -> ActiveStream | Refused:
        options, refuse = event.options, self._protocol.refuse
        try:
            name = self._slot.name(options.id, self)
        except DuplicateIdError as error:
            return refuse("duplicate_id", str(error), "id", Close.DUPLICATE)
        except (FullError, QuotaError) as error:
            full = isinstance(error, FullError)
            self._services.metrics.rejects.labels("full" if full else "too_much").inc()
            return refuse("full", str(error), close=Close.FULL if full else Close.QUOTA)
        note(stream=name)
        try:
            self._check_sinks(options, transport)
        except ForbiddenHostError as error:
            return refuse("bad_options", str(error), "sinks", Close.BAD_OPTIONS)
        lane = self._services.scheduler.lane()
        try:
            stream, share = await open_stream(self._services, options, lane)
        except EngineError as error:
            return refuse("bad_options", str(error), error.field, Close.BAD_OPTIONS)
        except OverCapacityError as error:
            self._services.metrics.rejects.labels("capacity").inc()
            return refuse("over_capacity", str(error), error.field, Close.FULL)
        except WorkerLost as error:
            self._services.metrics.rejects.labels("no_worker").inc()
            return refuse("no_worker", str(error), close=Close.FULL)
        config, hosts = self._services.config, self._services.hosts
        taps = Taps(name, open_sinks(name, options.sinks, config, hosts))
        return ActiveStream(
            self._services, self._protocol, stream, share, options, lane, taps, self._halt
        )

    async def _hand_over(self, transport: Transport, token: str) -> Stop:
        """Let the stream of this token go on over this connection, for as long as it does."""
        owner = self._slot.find(token)
        if owner is None:
            text = "no stream of yours has this token; it has ended, or waited too long for you"
            refused = self._protocol.refuse("unknown_stream", text, "resume", Close.BAD_OPTIONS)
            return await self._refuse(transport, refused)
        self._connection = None
        self._slot.release()
        await owner.adopt(transport)
        return Stop(Close.NORMAL, "handed_over")

    def _check_sinks(self, options: StreamStart, transport: Transport) -> None:
        if options.sinks and not transport.trusted:
            raise ForbiddenHostError("sinks need a key with the scope admin")
        check_sinks(options.sinks, self._services.hosts)

    def _say(self, event: str, **facts: object) -> None:
        _log.info(event, extra={"facts": facts})

    async def _refuse(self, transport: Transport, refused: Refused) -> Stop:
        self._say("stream refused", code=refused.error.code, why=refused.error.message)
        await transport.send(dump(refused.error))
        assert refused.close is not None
        return Stop(refused.close, refused.error.code)

    async def _listen(self, running: ActiveStream, transport: Transport) -> None:
        while True:
            try:
                event = await self._receive(transport)
            except Disconnected as gone:
                if gone.vanished:
                    self._break()
                else:
                    self._halt(Stop(Close.NORMAL, "disconnected"))
                return
            if event is None:
                return
            if isinstance(event, FrameReceived):
                running.take(event)
            elif isinstance(event, UpdateRequested):
                running.update(event.options)
            elif isinstance(event, EndRequested):
                running.end()
            elif isinstance(event, Refused):
                running.outbox.text(dump(event.error))
                if event.close is not None:
                    self._halt(Stop(event.close, event.error.code))
                    return

    async def _finish(self, stop: Stop) -> None:
        running, self._running = self._running, None
        ended: list[str] = []
        try:
            if running is not None:
                ended = await running.free(stop.reason)
                p = self._protocol
                self._say(
                    "stream ended",
                    reason=stop.reason,
                    received=p.received,
                    results=p.results,
                    drops=p.drops,
                )
        finally:
            self._protocol.close()
            self._slot.release()
            if self._next is not None:  # it came too late
                self._dismiss(self._next, Stop(Close.BAD_OPTIONS, "unknown_stream"))
            if self._connection is not None:
                self._dismiss(self._connection, stop, ended)
            await asyncio.gather(*self._dismissing)

    def _dismiss(self, connection: Connection, stop: Stop, words: Sequence[str] = ()) -> None:
        """End a connection while others go on."""
        if stop.reason == "disconnected":
            connection.over.set()
            return
        self._services.metrics.closes.labels(str(int(stop.close))).inc()
        task = asyncio.ensure_future(connection.farewell(stop, words))
        self._dismissing.add(task)
        task.add_done_callback(self._dismissing.discard)
