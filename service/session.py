"""One stream's life: from `stream.start` to `stream.ended`, every frame accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

from service.config import Config
from service.engine import Engine, EngineError, EngineStream, FrameError, StepOutput, StreamSpec
from service.intake import Intake, Ready
from service.masks import mask_png, pack_bits, pack_ids
from service.messages import (
    Blob,
    Ended,
    Outputs,
    Reset,
    ResultMeta,
    Started,
    Stats,
    StreamStart,
    StreamUpdate,
    Timings,
)
from service.metrics import Metrics
from service.outbox import Outbox, Result
from service.pictures import Limits
from service.protocol import (
    Close,
    EndRequested,
    Event,
    Flags,
    FrameReceived,
    Refused,
    ServerProtocol,
    StartRequested,
    UpdateRequested,
    dump,
)
from service.queues import Closed
from service.registry import DuplicateIdError, Slot
from service.scheduler import Lane, Scheduler

__all__ = ["Disconnected", "Services", "Session", "Transport"]

_log = logging.getLogger("resq.session")
_STATS_EVERY = 1.0


class Disconnected(Exception):  # noqa: N818 - an end, not an error
    """The client is gone."""


class Transport(Protocol):
    """A WebSocket as a session sees it. All but `close` raise Disconnected when it is gone."""

    async def receive(self) -> str | bytes: ...
    async def send(self, data: str | bytes) -> None: ...
    async def close(self, code: int, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What sessions share."""

    config: Config
    engine: Engine
    scheduler: Scheduler
    decoders: Executor
    metrics: Metrics


class _Stop(Exception):  # noqa: N818 - carries how to close
    def __init__(self, close: Close, reason: str) -> None:
        super().__init__(reason)
        self.close, self.reason = close, reason


class Session:
    """One connection; `run` returns when it is closed and everything it held is free."""

    def __init__(self, services: Services, transport: Transport, slot: Slot) -> None:
        self._services, self._transport, self._slot = services, transport, slot
        self._protocol = ServerProtocol()
        self._stopping: asyncio.Future[_Stop] = asyncio.get_running_loop().create_future()
        self._running: Running | None = None

    def describe(self) -> dict[str, Any]:
        """Facts for people and programs."""
        running = self._running
        return {"id": self._slot.id, **(running.describe() if running else {})}

    def stop(self, reason: str) -> None:
        """End the stream soon; frames on their way become drops."""
        close = Close.SHUTDOWN if reason == "shutdown" else Close.NORMAL
        self._halt(_Stop(close, reason))

    def _halt(self, stop: _Stop) -> None:
        if not self._stopping.done():
            self._stopping.set_result(stop)

    async def run(self) -> None:
        """Serve the connection to its end."""
        stop = _Stop(Close.INTERNAL, "internal_error")
        try:
            stop = await self._serve()
        except Disconnected:
            stop = _Stop(Close.NORMAL, "disconnected")
        except Exception:
            _log.exception("a stream failed")
        finally:
            await asyncio.shield(self._finish(stop))

    async def _serve(self) -> _Stop:
        start = await self._until_stopped(self._start())
        if isinstance(start, _Stop):
            return start
        running = start
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(coroutine)
                for coroutine in (running.intake.run(), running.infer(), running.report())
            ]
            sender = group.create_task(running.send())
            tasks.append(group.create_task(self._listen(running)))
            tasks.append(sender)
            stop = await self._stopping
            for task in tasks:
                task.cancel()
        return stop

    async def _until_stopped(self, start: Any) -> Any:
        task = asyncio.ensure_future(start)
        await asyncio.wait((task, self._stopping), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return self._stopping.result()
        return task.result()

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

    async def _start(self) -> Running | _Stop:
        event = await self._receive()
        if isinstance(event, Refused):
            return await self._refuse(event)
        assert isinstance(event, StartRequested)
        options, config = event.options, self._services.config
        try:
            name = self._slot.name(options.id, self)
        except DuplicateIdError as error:
            refused = self._protocol.refuse("duplicate_id", str(error), "id", Close.DUPLICATE)
            return await self._refuse(refused)
        spec = StreamSpec(
            model=options.model or config.model,
            precision=options.precision or config.precision,
            period=options.period or config.period,
            threshold=config.threshold if options.threshold is None else options.threshold,
            policy=options.policy,
            reference=options.reference,
        )
        try:
            stream = await asyncio.get_running_loop().run_in_executor(
                self._services.decoders, self._services.engine.open, spec
            )
        except EngineError as error:
            refused = self._protocol.refuse(
                "bad_options", str(error), error.field, Close.BAD_OPTIONS
            )
            return await self._refuse(refused)
        self._running = Running(self._services, self._protocol, self._transport, stream, options)
        self._running.halt = self._halt
        await self._transport.send(self._protocol.started(self._running.started(name)))
        return self._running

    async def _refuse(self, refused: Refused) -> _Stop:
        await self._transport.send(dump(refused.error))
        assert refused.close is not None
        return _Stop(refused.close, refused.error.code)

    async def _listen(self, running: Running) -> None:
        while True:
            try:
                event = await self._receive()
            except Disconnected:
                self._halt(_Stop(Close.NORMAL, "disconnected"))
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
                    self._halt(_Stop(event.close, event.error.code))
                    return

    async def _finish(self, stop: _Stop) -> None:
        running, self._running = self._running, None
        ended = await running.free(stop.reason) if running is not None else []
        self._protocol.close()
        self._slot.release()
        with contextlib.suppress(Disconnected, TimeoutError):
            async with asyncio.timeout(1.0 if stop.close is Close.SLOW_READER else 5.0):
                if stop.reason != "disconnected":
                    for text in ended:
                        await self._transport.send(text)
                    self._services.metrics.closes.labels(str(int(stop.close))).inc()
                    await self._transport.close(int(stop.close), stop.reason)


class Running:
    """A started stream: its engine state, its queues, and the tasks that move frames along."""

    def __init__(
        self,
        services: Services,
        protocol: ServerProtocol,
        transport: Transport,
        stream: EngineStream,
        options: StreamStart,
    ) -> None:
        self._services, self._protocol, self._transport = services, protocol, transport
        self._stream, self._options = stream, options
        self._outputs, self._model = options.outputs, stream.spec.model
        self._card = services.engine.card(self._model)
        config = services.config
        live = options.mode == "live"
        self.outbox = Outbox(newest_wins=live)
        self.intake = Intake(
            options.input,
            live,
            config.intake if live else max(config.intake, config.credits),
            Limits(config.max_frame_bytes, config.max_pixels),
            services.decoders,
            self._drop,
        )
        self._lane: Lane = services.scheduler.lane()
        self._updates: list[StreamUpdate] = []
        self._shape: tuple[int, ...] | None = None
        self._opened, self._cache = time.perf_counter(), 0
        self.halt: Callable[[_Stop], None] = lambda stop: None
        services.metrics.streams_active.labels(self._model).inc()

    def describe(self) -> dict[str, Any]:
        """Facts for people and programs."""
        spec, p = self._stream.spec, self._protocol
        return {
            "model": spec.model,
            "precision": spec.precision,
            "period": spec.period,
            "threshold": spec.threshold,
            "mode": self._options.mode,
            "received": p.received,
            "results": p.results,
            "drops": p.drops,
            "seconds": round(time.perf_counter() - self._opened, 3),
            "state_bytes": self._cache,
        }

    def started(self, name: str) -> Started:
        """The answer to `stream.start`."""
        spec, options = self._stream.spec, self._options
        return Started.model_validate(
            {
                "id": name,
                "model": spec.model,
                "task": self._card.task,
                "precision": spec.precision,
                "period": spec.period,
                "threshold": spec.threshold,
                "policy": spec.policy,
                "reference": spec.reference,
                "mode": options.mode,
                "deadline_ms": options.deadline_ms,
                "input": options.input,
                "outputs": options.outputs,
                "classes": self._card.classes,
                "palette": self._card.palette,
                "credits": self._services.config.credits,
            }
        )

    def take(self, event: FrameReceived) -> None:
        """A frame arrived."""
        self._services.metrics.frames.labels(self._model, "received").inc()
        self.intake.take(event.frame)

    def update(self, options: StreamUpdate) -> None:
        """Remember new options for the next frame; they are in range already."""
        if len(self._updates) >= 16:
            self._updates.pop(0)
        self._updates.append(options)

    def _drop(self, seq: int, reason: str, message: str | None) -> None:
        self.outbox.text(self._protocol.drop(seq, reason, message))
        self._services.metrics.dropped.labels(self._model, reason).inc()

    async def infer(self) -> None:
        """Step every picture, then end the stream."""
        with contextlib.suppress(Closed):
            while True:
                await self._step(await self.intake.get())
        self.outbox.close()

    async def _step(self, ready: Ready) -> None:
        deadline = self._options.deadline_ms
        if deadline is not None and (time.perf_counter() - ready.received) * 1000 > deadline:
            self._drop(ready.seq, "deadline", None)
            return
        anchor = "requested" if Flags.ANCHOR in ready.flags else None
        if self._shape not in (None, ready.image.shape):
            anchor = "size_changed"
            self.outbox.text(dump(Reset(reason=anchor)))
        updates, self._updates = self._updates, []
        try:
            result = await self._lane.run(lambda: self._work(ready, anchor, updates))
        except FrameError as error:
            self._drop(ready.seq, "bad_frame", str(error))
            return
        self._shape = ready.image.shape
        self._count(result.meta)
        displaced = self.outbox.result(result)
        if displaced is not None:
            self._drop(displaced.meta.seq, "slow_reader", None)

    def _work(self, ready: Ready, anchor: str | None, updates: list[StreamUpdate]) -> Result:
        for update in updates:
            self._stream.update(update.period, update.threshold)
            self._outputs = update.outputs or self._outputs
        outputs, start = self._outputs, time.perf_counter()
        out = self._stream.step(ready.image, outputs.bit_map, outputs.layers, anchor)
        inferred = time.perf_counter()
        named = _blobs(out, outputs, self._card.palette)
        timings = Timings(
            receive=_ms(ready.received, ready.decode_start),
            decode=_ms(ready.decode_start, ready.decoded),
            queue=_ms(ready.decoded, start),
            infer=_ms(start, inferred),
            encode=_ms(inferred, time.perf_counter()),
        )
        meta = ResultMeta(
            seq=ready.seq,
            pts_us=ready.pts_us,
            index=out.index,
            is_anchor=out.is_anchor,
            anchor_reason=out.anchor_reason,
            timings=timings,
            bops=out.bops,
            mean_bits=out.mean_bits,
            active_fraction=out.active_fraction,
            clipped_fraction=out.clipped_fraction,
            blobs=tuple(blob for blob, _ in named),
        )
        return Result(meta, tuple(data for _, data in named), ready.flags & Flags.LAST)

    def _count(self, meta: ResultMeta) -> None:
        m, model, t = self._services.metrics, self._model, meta.timings
        stages = t.model_dump()
        for stage, ms in stages.items():
            m.stage.labels(model, stage).observe(ms / 1000)
        m.latency.labels(model).observe(sum(stages.values()) / 1000)
        m.bops.labels(model, "anchor" if meta.is_anchor else "residual").inc(meta.bops.frame)
        m.baseline.labels(model).inc(meta.bops.w8a8)
        m.policy_bops.labels(model).inc(meta.bops.policy)
        m.active.labels(model).observe(meta.active_fraction)
        m.frames.labels(model, "inferred").inc()
        if meta.anchor_reason is not None:
            m.anchors.labels(model, meta.anchor_reason).inc()
        self._set_cache(self._stream.nbytes)

    def _set_cache(self, size: int) -> None:
        self._services.metrics.cache.labels(self._model).inc(size - self._cache)
        self._cache = size

    async def report(self) -> None:
        """Tell the totals once a second while frames come."""
        last = -1
        while True:
            await asyncio.sleep(_STATS_EVERY)
            if self.outbox.overflown:
                self.halt(_Stop(Close.SLOW_READER, "slow_reader"))
                return
            if self._protocol.results != last:
                last = self._protocol.results
                self.outbox.text(dump(self._stats()))

    def _stats(self) -> Stats:
        p, t = self._protocol, self._stream.totals
        return Stats(
            received=p.received,
            results=p.results,
            drops=p.drops,
            anchors=t.anchors,
            fps=t.frames / max(time.perf_counter() - self._opened, 1e-6),
            saving=t.saving,
            mean_bits=t.mean_bits,
        )

    async def send(self) -> None:
        """Send what waits; a client that does not read is closed."""
        try:
            while (item := await self.outbox.get()) is not None:
                data = item if isinstance(item, str) else self._pack(item)
                async with asyncio.timeout(self._services.config.send_timeout):
                    await self._transport.send(data)
            self.halt(_Stop(Close.NORMAL, "ended"))
        except TimeoutError:
            self.halt(_Stop(Close.SLOW_READER, "slow_reader"))
        except Disconnected:
            self.halt(_Stop(Close.NORMAL, "disconnected"))

    def _pack(self, item: Result) -> bytes:
        self._services.metrics.frames.labels(self._model, "answered").inc()
        return self._protocol.result(item.meta, item.blobs, item.flags)

    async def free(self, reason: str) -> list[str]:
        """Give everything back; what is left to say to the client comes back as texts."""
        await self._lane.idle()
        self.outbox.close()
        texts: list[str] = []
        while (item := await self.outbox.get()) is not None:
            if isinstance(item, str):
                texts.append(item)
        for text in self._protocol.drop_all(reason):
            self._services.metrics.dropped.labels(self._model, reason).inc()
            texts.append(text)
        p, t = self._protocol, self._stream.totals
        ended = Ended(
            reason=reason,
            received=p.received,
            results=p.results,
            drops=p.drops,
            drop_reasons=dict(p.drop_reasons),
            anchors=t.anchors,
            bops=t.bops,
            policy_bops=t.policy_bops,
            bops_w8a8=t.bops_w8a8,
            bops_fp32=t.bops_fp32,
            saving=t.saving,
            mean_bits=t.mean_bits,
        )
        self._stream.close()
        self._set_cache(0)
        self._services.metrics.streams_active.labels(self._model).dec()
        self._services.metrics.streams_ended.labels(self._model, reason).inc()
        return [*texts, dump(ended)]


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)


def _blobs(
    out: StepOutput, outputs: Outputs, palette: tuple[tuple[int, int, int], ...]
) -> list[tuple[Blob, bytes]]:
    named: list[tuple[Blob, bytes]] = []

    def add(name: str, form: str, data: bytes, shape: tuple[int, ...]) -> None:
        fields = {"name": name, "format": form, "size": len(data), "shape": shape}
        named.append((Blob.model_validate(fields), data))

    if outputs.mask == "zlib":
        add("mask", "zlib-ids", pack_ids(out.ids), out.ids.shape)
    elif outputs.mask == "png":
        add("mask", "png", mask_png(out.ids, palette), out.ids.shape)
    if out.bit_map is not None:
        add("bit_map", "zlib-u8", pack_bits(out.bit_map), out.bit_map.shape)
    if out.layers is not None:
        packed = zlib.compress(json.dumps(out.layers).encode(), 1)
        add("layers", "zlib-json", packed, (len(out.layers),))
    return named
