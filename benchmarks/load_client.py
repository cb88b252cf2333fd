"""One client of a load. `python -m benchmarks.load_client`, its `Order` as JSON in a line on stdin.

Opens a live stream, waits for its first result, says `{"ready": true}`, waits for a second line,
sends at its rate for its time, ends, and says what it counted (`Count`) as a line of JSON. A client
that is refused says so and ends.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from benchmarks.ledger import CountedStream, Ledger, Refused, counted
from service.messages import Outputs, StreamStart

__all__ = ["READS", "Count", "Order"]

READS = 0.25  # of its time, for which a client reads that then stops
_END_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """What one client shall do.

    Attributes:
        address, model: of the server.
        frames: a pickled list of JPEGs.
        first: where in it to begin.
        fps, seconds, deadline_ms: its rate, its time, how old its frames may get.
        declares: it tells the server its rate.
        reads: False: after a quarter of its time it reads nothing any more.
    """

    address: str
    model: str
    frames: str
    first: int
    fps: float
    seconds: float
    deadline_ms: int
    declares: bool = False
    reads: bool = True

    @property
    def options(self) -> StreamStart:
        """What it asks the server for."""
        return StreamStart(
            model=self.model,
            mode="live",
            deadline_ms=self.deadline_ms,
            fps=self.fps if self.declares else None,
            outputs=Outputs(mask="zlib", bit_map=True),
        )


@dataclass(frozen=True, slots=True)
class Count:
    """What a client counted, after its first frame.

    Attributes:
        refused: code and reason, of one that was not let in; the rest is empty then.
        sent, results, drops: frames, drops by reason.
        seconds: from the first of them sent to the last.
        latencies: from send to result in ms, in order; stages: the server's share of them, ms each.
        bops, baseline: bit operations, and those of W8A8.
        close: code and reason.
        problems: of its ledger.
    """

    refused: tuple[int, str] | None = None
    sent: int = 0
    results: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    bops: float = 0.0
    baseline: float = 0.0
    close: tuple[int, str] | None = None
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, ledger: Ledger, whole: bool) -> Count:
        """What a ledger says, its first frame left out: it loads and plans."""
        sent = dict(list(ledger.sent.items())[1:])
        results = {seq: at for seq, at in ledger.results.items() if seq in sent}
        bops = [ledger.metas[seq]["bops"] for seq in results]
        drops: dict[str, int] = {}
        for seq, reason in ledger.drops.items():
            drops[reason] = drops.get(reason, 0) + (seq in sent)
        return cls(
            sent=len(sent),
            results=len(results),
            drops=drops,
            seconds=max(sent.values()) - min(sent.values()) if sent else 0.0,
            latencies=[1000 * (at - sent[seq]) for seq, at in results.items()],
            stages=[ledger.metas[seq]["timings"] for seq in results],
            bops=sum(b["frame"] + b["policy"] for b in bops),
            baseline=sum(b["w8a8"] for b in bops),
            close=ledger.close,
            problems=ledger.problems(whole),
        )


async def _send(stream: CountedStream, frames: Sequence[bytes], order: Order) -> None:
    start = time.monotonic()
    frames_to_send = round(order.seconds * order.fps)
    for index in range(frames_to_send):
        if not order.reads and index == round(READS * frames_to_send):
            stream.stop_reading()
        await asyncio.sleep(max(0.0, start + index / order.fps - time.monotonic()))
        await stream.send(frames[(order.first + index) % len(frames)])


async def _run(order: Order, frames: Sequence[bytes]) -> Count:
    try:
        async with counted(order.address, order.options) as stream:
            await stream.send(frames[order.first % len(frames)])
            await stream.answered(1)
            print('{"ready": true}', flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            try:
                async with asyncio.timeout(order.seconds + _END_SECONDS):
                    await _send(stream, frames, order)
            except (ConnectionClosed, TimeoutError):
                return Count.of(stream.ledger, whole=False)
            if not order.reads:
                return Count.of(stream.ledger, whole=False)
            return Count.of(await stream.end(_END_SECONDS), whole=True)
    except Refused as refused:
        return Count(refused=(refused.code, refused.reason))


def main() -> None:
    """See the module."""
    order = Order(**json.loads(sys.stdin.readline()))
    frames = pickle.loads(Path(order.frames).read_bytes())  # our own file
    print(json.dumps(asdict(asyncio.run(_run(order, frames)))), flush=True)


if __name__ == "__main__":
    main()
