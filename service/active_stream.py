"""A started stream: its engine state, its queues, and the tasks that move its frames along."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from service.capacity import OverCapacityError, Share
from service.decoder_process import DecoderLost, StreamDecoder
from service.degrade import Effects
from service.engine import EngineError, EngineStream, FrameError, Priority, WorkerLost
from service.intake import Intake, Ready
from service.messages import (
    Ended,
    Reset,
    ResultMeta,
    SinkState,
    Started,
    Stats,
    StreamStart,
    StreamUpdate,
)
from service.outbox import Outbox, Result
from service.pictures import DecodeError, Limits
from service.protocol import Close, Flags, FrameReceived, ServerProtocol, dump
from service.queues import Closed
from service.registry import Slot
from service.scheduler import Lane
from service.services import Services
from service.stepper import Stepper
from service.taps import Taps
from service.transport import Disconnected, Stop, Transport

__all__ = ["ActiveStream"]

_log = logging.getLogger("resq.session")
_STATS_EVERY = 1.0
_RESTORE_SECONDS, _RETRY_SECONDS = 30.0, 0.1  # how long another worker is looked for


class ActiveStream:
    """A started stream: its engine state, its queues, and the tasks that move frames along."""

    def __init__(
        self,
        services: Services,
        protocol: ServerProtocol,
        stream: EngineStream,
        share: Share,
        options: StreamStart,
        lane: Lane,
        taps: Taps,
        halt: Callable[[Stop], None],
    ) -> None:
        self._services, self._protocol = services, protocol
        self._stream, self._share, self._options = stream, share, options
        self.taps, self._halt = taps, halt
        self.model = stream.spec.model
        self._card = services.engine.card(self.model)
        self._stepper = Stepper(stream, options)
        self._live = options.mode == "live"
        self._intake, self.outbox = self._new_intake(), self._new_outbox()
        self._lane, self._all_came = lane, False
        self._turn = 0
        self._opened, self._cache = time.perf_counter(), 0
        services.metrics.streams_active.labels(self.model).inc()

    def _new_outbox(self) -> Outbox:
        return Outbox(newest_wins=self._live)

    def _new_intake(self, waits: bool = False) -> Intake:
        """With a decoder of its own, as every connection has one, and every worker."""
        config, live, kind = self._services.config, self._live, self._options.input
        limits = Limits(config.max_frame_bytes, config.max_pixels)
        decoder = None
        if kind != "rgb":
            decoder = self._stream.decoder(kind, limits) or StreamDecoder(
                self._services.decoders, kind, limits
            )
        return Intake(
            kind,
            live,
            config.intake if live else max(config.intake, config.credits),
            config.intake if live else config.credits - 1,
            limits,
            decoder,
            self._drop,
            waits,
        )

    async def open(self) -> None:
        """Be ready for the first frame of a connection. Raises DecoderLost, or WorkerLost."""
        while True:
            try:
                return await self._intake.open()
            except WorkerLost as lost:
                await self._restore(lost)

    async def pause(self) -> None:
        """The connection broke: what is on its way is dropped, what was learnt stays.

        Encoded video begins anew at an IDR, in another decoder: access units are missing.
        """
        await self._intake.close()
        await self._lane.idle()
        self._drop_rest("disconnected")  # there is nobody to tell
        self._intake, self.outbox, self._all_came = self._new_intake(), self._new_outbox(), False

    def describe(self) -> dict[str, Any]:
        """Facts for people and programs."""
        spec, p = self._stream.spec, self._protocol
        return {
            "model": spec.model,
            "precision": spec.precision,
            "period": spec.period,
            "threshold": spec.threshold,
            "mode": self._options.mode,
            "fps": self._share.fps,
            "workers": round(self._share.demand(self._effects), 4),
            "degradation": self._effects.level,
            "received": p.received,
            "results": p.results,
            "drops": p.drops,
            "seconds": round(time.perf_counter() - self._opened, 3),
            "state_bytes": self._cache,
            "sinks": self.taps.describe(),
        }

    def started(self, slot: Slot, resumed: bool) -> Started:
        """The answer to `stream.start`."""
        spec, options, joints = self._stream.spec, self._options, self._card.joint_set
        return Started.model_validate(
            {
                "id": slot.id,
                "model": spec.model,
                "task": self._card.task,
                "precision": spec.precision,
                "period": spec.period,
                "threshold": spec.threshold,
                "policy": spec.policy,
                "reference": spec.reference,
                "mode": options.mode,
                "deadline_ms": options.deadline_ms,
                "fps": options.fps,
                "input": options.input,
                "outputs": options.outputs,
                "classes": self._card.classes,
                "palette": self._card.colours,
                "joints": joints.names if joints else (),
                "skeleton": joints.skeleton if joints else (),
                "credits": self._services.config.credits,
                "resume": slot.resume,
                "resumed": self._protocol.ledger if resumed else None,
            }
        )

    def take(self, event: FrameReceived) -> None:
        """A frame arrived."""
        self._services.metrics.frames.labels(self.model, "received").inc()
        self._intake.take(event.frame)

    def end(self) -> None:
        """No frame follows on this connection."""
        self._all_came = True
        self._intake.end()

    def update(self, options: StreamUpdate) -> None:
        """New options for the next frame; they are in range already."""
        if options.period is not None:
            try:
                self._services.capacity.change(self._share, options.period)
            except OverCapacityError as error:
                refused = self._protocol.refuse("over_capacity", str(error), "period")
                self.outbox.text(dump(refused.error))
                return
        self._stepper.update(options)

    @property
    def _effects(self) -> Effects:
        """What is taken from the stream: nothing from one that was promised nothing."""
        return Effects() if self._share.fps is None else self._services.capacity.effects

    def _drop(self, seq: int, reason: str, message: str | None) -> None:
        self.outbox.text(self._protocol.drop(seq, reason, message))
        self._services.metrics.dropped.labels(self.model, reason).inc()
        if self.outbox.overflown:
            self._halt(Stop(Close.SLOW_READER, "slow_reader"))

    async def work(self) -> None:
        """Decode and step every frame, where a worker is lost on another, then end the stream."""
        while True:
            lost: WorkerLost | None = None
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._decode())
                    group.create_task(self._infer())
            except* WorkerLost as both:
                lost = next(e for e in both.exceptions if isinstance(e, WorkerLost))
            if lost is None:
                self.outbox.close()
                return
            try:
                await self._restore(lost)
                await self.open()
            except (WorkerLost, DecoderLost) as error:
                self._fail(error.reason, str(error))
                return

    async def _restore(self, lost: WorkerLost) -> None:
        """Go on elsewhere: what was on its way is dropped, what is ready is still sent.

        Raises:
            WorkerLost: there is nowhere to go on, or what is lost cannot be begun anew.
        """
        began, before = time.perf_counter(), self._intake
        dropped = self._protocol.open_frames - self.outbox.seqs
        for seq in sorted(dropped):
            self._drop(seq, lost.reason, None)
        self._intake = self._new_intake(waits=True)
        if self._all_came:
            self._intake.end()
        idr = self._options.input in ("h264", "vp8")
        self.outbox.text(dump(Reset(reason=lost.reason, idr=idr)))
        await before.close()
        await self._lane.idle()
        while True:
            try:
                await self._lane.run(self._stream.restore)
                break
            except WorkerLost:
                if time.perf_counter() - began > _RESTORE_SECONDS:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)
            except EngineError as error:
                raise WorkerLost(str(error), lost.reason) from error
        facts = {"why": str(lost), "dropped": len(dropped)}
        facts["ms"] = round(1000 * (time.perf_counter() - began))
        _log.warning("stream goes on with another worker", extra={"facts": facts})

    async def _decode(self) -> None:
        """Decode every frame; a decoder that is lost ends the stream."""
        try:
            await self._intake.run()
        except DecoderLost as error:
            self._fail(error.reason, str(error))

    def _fail(self, reason: str, message: str) -> None:
        refused = self._protocol.refuse(reason, message, close=Close.INTERNAL)
        self.outbox.text(dump(refused.error))
        self._halt(Stop(Close.INTERNAL, reason))

    async def _infer(self) -> None:
        """Step every picture; a decoder that is lost ends the stream here as well."""
        try:
            while True:
                await self._step(await self._intake.get())
        except Closed:
            return
        except DecoderLost as error:
            self._fail(error.reason, str(error))

    async def _step(self, ready: Ready) -> None:
        anchor = "requested" if Flags.ANCHOR in ready.flags else None
        self._services.metrics.frames.labels(self.model, "decoded").inc()
        effects, share, now = self._effects, self._share, time.perf_counter()
        self._turn += 1
        if self._live and anchor is None and self._turn % effects.one_of:
            self._intake.carry(ready.flags)
            self._drop(ready.seq, "degraded", None)
            return
        expected = share.expected(now, effects, anchor is not None)
        priority = Priority.RESERVED if share.within(now) else Priority.LIVE
        try:
            result = await self._lane.run(
                lambda: self._stepper.step(ready, anchor, effects, expected, priority), priority
            )
        except FrameError as error:
            self._drop(ready.seq, "bad_frame", str(error))
            return
        except DecodeError as error:
            self._drop(ready.seq, error.reason, str(error))
            return
        finally:
            self._tell_refused()
        if result is None:
            self._intake.carry(ready.flags)
            self._drop(ready.seq, "deadline", None)
            return
        self._count(result.meta)
        self._show_layers()
        self.taps.take(result)
        if result.meta.anchor_reason == "size_changed":
            self.outbox.text(dump(Reset(reason="size_changed")))
        displaced = self.outbox.result(result)
        if displaced is not None:
            self._drop(displaced.meta.seq, "slow_reader", None)

    def _tell_refused(self) -> None:
        for error in self._stepper.refused:
            refused = self._protocol.refuse("bad_options", str(error), error.field)
            self.outbox.text(dump(refused.error))
            self._share.period = self._stepper.period
        self._stepper.refused.clear()

    def _count(self, meta: ResultMeta) -> None:
        m, model, t = self._services.metrics, self.model, meta.timings
        seconds = (t.infer + t.encode) / 1000
        self._services.capacity.note(self._share, time.perf_counter(), meta.is_anchor, seconds)
        stages = t.model_dump()
        for stage, ms in stages.items():
            m.stage.labels(model, stage).observe(ms / 1000)
        latency = sum(stages.values())
        m.latency.labels(model).observe(latency / 1000)
        if self._options.deadline_ms is not None:
            m.deadline.labels(model).observe(latency / self._options.deadline_ms)
        m.inferred(model, meta)
        kind = "anchor" if meta.is_anchor else "residual"
        m.worker_cpu.labels(model, kind).inc(self._stepper.cpu_seconds)
        self._set_cache(self._stream.nbytes)
        if self._services.traces is not None:
            self._services.traces.frame(model, meta)

    def _show_layers(self) -> None:
        layers, self._stepper.layers = self._stepper.layers, None
        if layers is not None:
            self._services.metrics.show_layers(self.model, layers)

    def _set_cache(self, size: int) -> None:
        self._services.metrics.cache.labels(self.model).inc(size - self._cache)
        self._cache = size

    async def report(self) -> None:
        """Tell the totals once a second while frames come."""
        last = -1
        while True:
            await asyncio.sleep(_STATS_EVERY)
            self._stream.claim(self._share.demand(self._effects))
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
            degraded=self._stepper.degraded,
            sinks=[SinkState.model_validate(sink) for sink in self.taps.describe()],
        )

    async def send(self, transport: Transport) -> None:
        """Send what waits; a client that does not read is closed."""
        try:
            while (item := await self.outbox.get()) is not None:
                data = item if isinstance(item, str) else self._pack(item)
                async with asyncio.timeout(self._services.config.send_timeout):
                    await transport.send(data)
            self._halt(Stop(Close.NORMAL, "ended"))
        except TimeoutError:
            self._halt(Stop(Close.SLOW_READER, "slow_reader"))
        except Disconnected:
            pass  # who listens learns more

    def _pack(self, item: Result) -> bytes:
        self._services.metrics.frames.labels(self.model, "answered").inc()
        return self._protocol.result(item.meta, item.blobs, item.flags)

    async def free(self, reason: str) -> list[str]:
        """Give everything back; what is left to say to the client comes back as texts."""
        self._services.capacity.free(self._share)
        await self._intake.close()
        await self._lane.idle()
        await self.taps.close()
        self.outbox.close()
        texts: list[str] = []
        while (item := await self.outbox.get()) is not None:
            if isinstance(item, str):
                texts.append(item)
        texts += self._drop_rest(reason)
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
        self._services.metrics.streams_active.labels(self.model).dec()
        self._services.metrics.streams_ended.labels(self.model, reason).inc()
        return [*texts, dump(ended)]

    def _drop_rest(self, reason: str) -> list[str]:
        """Answer every frame on its way with a drop; the texts that say so."""
        texts = self._protocol.drop_all(reason)
        if texts:
            self._services.metrics.dropped.labels(self.model, reason).inc(len(texts))
        return texts
