"""One stream's way from encoded bytes to pictures: drops before or after decoding, never between.

An encoded H.264 or VP8 frame that goes missing spoils every picture up to the next IDR without any
error, so such frames are dropped after decoding only, or up to an IDR.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from service.decoder import Decoded, is_idr
from service.engine import Decoder, Kept
from service.pictures import DecodeError, Limits, Picture, decode_rgb
from service.protocol import Flags, Frame
from service.queues import Closed, Queue
from service.threads import in_thread

__all__ = ["Intake", "Ready"]

_MAX_HELD = 32
Drop = Callable[[int, str, str | None], None]


@dataclass(slots=True)
class Ready:
    """A decoded frame and its clock readings (seconds of `time.perf_counter`)."""

    seq: int
    pts_us: int
    flags: Flags
    received: float
    decode_start: float
    decoded: float
    image: Picture | Kept


@dataclass(frozen=True, slots=True)
class _Arrival:
    frame: Frame
    received: float


class Intake:
    """Takes frames, hands out pictures.

    Args:
        kind: the stream's input kind.
        live: keep the newest picture only; otherwise wait until it is taken.
        size: encoded video frames that may wait for the decoder.
        held: encoded video frames that may wait inside the codec, which shows pictures in another
            order than it decodes them; the oldest beyond gets no picture. Fewer than the client
            may have on their way, or it could wait for an answer forever.
        limits: of a frame.
        decoder: not opened yet; None of raw pictures.
        drop: told of every frame that gets no picture: seq, reason, message.
        waits: encoded video begins at an IDR that has to come yet; what comes before is dropped
            unseen.
    """

    def __init__(
        self,
        kind: Literal["image", "h264", "vp8", "rgb"],
        live: bool,
        size: int,
        held: int,
        limits: Limits,
        decoder: Decoder | None,
        drop: Drop,
        waits: bool = False,
    ) -> None:
        self._live, self._limits, self._drop = live, limits, drop
        self._codec = kind if kind == "h264" or kind == "vp8" else None
        self._decoder = decoder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="resq-decode")
        newest_encoded = live and self._codec is None
        self._waiting: Queue[_Arrival] = Queue(1 if newest_encoded else size)
        self._pictures: Queue[Ready] = Queue(1)
        self._held: dict[int, _Arrival] = {}
        self._max_held = min(held, _MAX_HELD)
        self._skipping, self._carried = waits, Flags.NONE

    async def open(self) -> None:
        """Have a decoder ready before the first frame. Raises DecoderLost, or WorkerLost."""
        if self._decoder is not None:
            await in_thread(self._thread, self._decoder.open)

    def take(self, frame: Frame) -> None:
        """A frame arrived; never waits."""
        arrival = _Arrival(frame, time.perf_counter())
        if self._codec is None:
            if self._live:
                displaced = self._waiting.push(arrival)
                if displaced is not None:
                    self.carry(displaced.frame.flags)
                    self._drop(displaced.frame.seq, "superseded", None)
            elif not self._waiting.offer(arrival):
                self._drop(frame.seq, "overflow", None)
            return
        if self._skipping and not is_idr(frame.body, self._codec):
            self._drop(frame.seq, "waiting_for_idr", None)
            return
        self._skipping = not self._waiting.offer(arrival)
        if self._skipping:
            self._drop(frame.seq, "overflow", "the decoder is behind; the next IDR is taken")

    def end(self) -> None:
        """No frame follows; those inside still become pictures."""
        self._waiting.close()

    async def get(self) -> Ready:
        """The next picture. Raises Closed after `end` when all are gone."""
        ready = await self._pictures.get()
        ready.flags |= self._carried
        self._carried = Flags.NONE
        return ready

    def carry(self, flags: Flags) -> None:
        """A frame went whose flags are the next one's as well: an anchor wanted, frames missing."""
        self._carried |= flags & (Flags.ANCHOR | Flags.DISCONT)

    async def run(self) -> None:
        """Decode until `end`, one frame at a time, off the event loop.

        Raises:
            DecoderLost, WorkerLost: the stream's decoder is gone; frames inside are not answered.
        """
        try:
            while True:
                await self._decode(await self._waiting.get())
        except Closed:
            await self._finish()
        finally:
            self._pictures.close()

    async def close(self) -> None:
        """End the decoder's process and thread; for when `run` is over."""
        if self._decoder is not None:
            await asyncio.to_thread(self._decoder.close)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _decode(self, arrival: _Arrival) -> None:
        frame, start = arrival.frame, time.perf_counter()
        self._held[frame.seq] = arrival
        try:
            pictures = await in_thread(self._thread, self._pictures_of, frame)
        except DecodeError as error:
            self._drop(frame.seq, error.reason, str(error))
            del self._held[frame.seq]
            if error.reason != "waiting_for_idr":
                self._drop_held("bad_frame")  # the codec started afresh without them
            return
        for picture in pictures:
            await self._hand_out(picture, start)
        while len(self._held) > self._max_held:
            seq = next(iter(self._held))
            del self._held[seq]
            self._drop(seq, "no_picture", "the codec gave no picture for this frame")

    def _pictures_of(self, frame: Frame) -> Sequence[Decoded | Kept]:
        if self._decoder is not None:
            return self._decoder.decode(frame.body, frame.seq)
        image = decode_rgb(frame.body, frame.meta.get("shape"), self._limits)
        return [Decoded(frame.seq, image)]

    async def _hand_out(self, picture: Decoded | Kept, start: float) -> None:
        arrival = self._held.pop(picture.seq, None)
        if arrival is None:
            return
        frame = arrival.frame
        now = time.perf_counter()
        image = picture.image if isinstance(picture, Decoded) else picture
        ready = Ready(frame.seq, frame.pts_us, frame.flags, arrival.received, start, now, image)
        if not self._live:
            await self._pictures.put(ready)
            return
        displaced = self._pictures.push(ready)
        if displaced is not None:
            self.carry(displaced.flags)
            self._drop(displaced.seq, "superseded", None)

    async def _finish(self) -> None:
        if self._codec is not None and self._decoder is not None:
            start = time.perf_counter()
            for picture in await in_thread(self._thread, self._decoder.flush):
                await self._hand_out(picture, start)
        self._drop_held("no_picture")

    def _drop_held(self, reason: str) -> None:
        for seq in self._held:
            self._drop(seq, reason, "the codec gave no picture for this frame")
        self._held.clear()
