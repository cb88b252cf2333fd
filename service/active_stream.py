"""A started stream: its engine state, its queues, and the tasks that move its frames along."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from service.decoder_process import DecoderLost
from service.engine import EngineError, EngineStream, FrameError
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
    Timings,
)
from service.outbox import Outbox, Result
from service.pictures import Limits
from service.protocol import Close, Flags, FrameReceived, ServerProtocol, dump
from service.queues import Closed
from service.results import encode_blobs, result_meta
from service.scheduler import Lane
from service.services import Services
from service.taps import Taps
from service.transport import Disconnected, Stop, Transport

__all__ = ["ActiveStream"]

_STATS_EVERY = 1.0


class ActiveStream:
    """A started stream: its engine state, its queues, and the tasks that move frames along."""

    def __init__(
        self,
        services: Services,
        protocol: ServerProtocol,
        transport: Transport,
        stream: EngineStream,
        options: StreamStart,
        lane: Lane,
        taps: Taps,
        halt: Callable[[Stop], None],
    ) -> None:
        self._services, self._protocol, self._transport = services, protocol, transport
        self._stream, self._options = stream, options
        self.taps, self._halt = taps, halt
        self._outputs, self._model = options.outputs, stream.spec.model
        self._card = services.engine.card(self._model)
        self._background = 0 if self._card.task == "vos" else None
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
        self._lane = lane
        self._updates: list[StreamUpdate] = []
        self._refused: list[EngineError] = []
        self._opened, self._cache = time.perf_counter(), 0
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
            "sinks": self.taps.describe(),
        }

    def started(self, name: str) -> Started:
        """The answer to `stream.start`."""
        spec, options, joints = self._stream.spec, self._options, self._card.joint_set
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
                "palette": self._card.colours,
                "joints": joints.names if joints else (),
                "skeleton": joints.skeleton if joints else (),
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
        if self.outbox.overflown:
            self._halt(Stop(Close.SLOW_READER, "slow_reader"))

    async def decode(self) -> None:
        """Decode every frame; a decoder that is lost ends the stream."""
        try:
            await self.intake.run()
        except DecoderLost as error:
            refused = self._protocol.refuse(error.reason, str(error), close=Close.INTERNAL)
            self.outbox.text(dump(refused.error))
            self._halt(Stop(Close.INTERNAL, error.reason))

    async def infer(self) -> None:
        """Step every picture, then end the stream."""
        with contextlib.suppress(Closed):
            while True:
                await self._step(await self.intake.get())
        self.outbox.close()

    async def _step(self, ready: Ready) -> None:
        anchor = "requested" if Flags.ANCHOR in ready.flags else None
        updates, self._updates = self._updates, []
        try:
            result = await self._lane.run(lambda: self._work(ready, anchor, updates))
        except FrameError as error:
            self._drop(ready.seq, "bad_frame", str(error))
            return
        finally:
            self._tell_refused()
        if result is None:
            self.intake.carry(ready.flags)
            self._drop(ready.seq, "deadline", None)
            return
        self._count(result.meta)
        self.taps.take(result)
        if result.meta.anchor_reason == "size_changed":
            self.outbox.text(dump(Reset(reason="size_changed")))
        displaced = self.outbox.result(result)
        if displaced is not None:
            self._drop(displaced.meta.seq, "slow_reader", None)

    def _work(self, ready: Ready, anchor: str | None, updates: list[StreamUpdate]) -> Result | None:
        for update in updates:
            self._apply(update)
        outputs, start = self._outputs, time.perf_counter()
        deadline = self._options.deadline_ms
        if deadline is not None and (start - ready.received) * 1000 > deadline:
            return None
        out = self._stream.step(ready.image, outputs.bit_map, outputs.layers, anchor)
        inferred = time.perf_counter()
        named = encode_blobs(out, outputs, self._card.colours, self._background)
        timings = Timings(
            receive=_ms(ready.received, ready.decode_start),
            decode=_ms(ready.decode_start, ready.decoded),
            queue=_ms(ready.decoded, start),
            infer=_ms(start, inferred),
            encode=_ms(inferred, time.perf_counter()),
        )
        blobs = tuple(blob for blob, _ in named)
        meta = result_meta(ready.seq, ready.pts_us, out, timings, blobs)
        return Result(meta, tuple(data for _, data in named), ready.flags & Flags.LAST)

    def _apply(self, update: StreamUpdate) -> None:
        try:
            self._stream.update(update)
            self._outputs = update.outputs or self._outputs
        except EngineError as error:
            self._refused.append(error)

    def _tell_refused(self) -> None:
        for error in self._refused:
            refused = self._protocol.refuse("bad_options", str(error), error.field)
            self.outbox.text(dump(refused.error))
        self._refused.clear()

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
            sinks=[SinkState.model_validate(sink) for sink in self.taps.describe()],
        )

    async def send(self) -> None:
        """Send what waits; a client that does not read is closed."""
        try:
            while (item := await self.outbox.get()) is not None:
                data = item if isinstance(item, str) else self._pack(item)
                async with asyncio.timeout(self._services.config.send_timeout):
                    await self._transport.send(data)
            self._halt(Stop(Close.NORMAL, "ended"))
        except TimeoutError:
            self._halt(Stop(Close.SLOW_READER, "slow_reader"))
        except Disconnected:
            self._halt(Stop(Close.NORMAL, "disconnected"))

    def _pack(self, item: Result) -> bytes:
        self._services.metrics.frames.labels(self._model, "answered").inc()
        return self._protocol.result(item.meta, item.blobs, item.flags)

    async def free(self, reason: str) -> list[str]:
        """Give everything back; what is left to say to the client comes back as texts."""
        await self.intake.close()
        await self._lane.idle()
        await self.taps.close()
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
