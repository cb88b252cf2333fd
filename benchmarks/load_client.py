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
from dataclasses import asdict, dataclass
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from benchmarks.ledger import CountedStream, Ledger, Refused, counted
from service.client.load_figures import Count
from service.messages import Outputs, StreamStart

__all__ = ["READS", "Order", "count_of"]

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


def count_of(ledger: Ledger, whole: bool) -> Count:
    """What a ledger says, its first frame left out: it loads and plans."""
    sent = dict(list(ledger.sent.items())[1:])
    results = {seq: at for seq, at in ledger.results.items() if seq in sent}
    metas = [ledger.metas[seq] for seq in results]
    drops: dict[str, int] = {}
    for seq, reason in ledger.drops.items():
        drops[reason] = drops.get(reason, 0) + (seq in sent)
    return Count(
        sent=len(sent),
        results=len(results),
        drops=drops,
        seconds=max(sent.values()) - min(sent.values()) if sent else 0.0,
        latencies=[1000 * (at - sent[seq]) for seq, at in results.items()],
        stages={
            name: [meta["timings"][name] for meta in metas]
            for name in (metas[0]["timings"] if metas else ())
        },
        anchors=[meta["is_anchor"] for meta in metas],
        active=[meta["active_fraction"] for meta in metas],
        bops=sum(meta["bops"]["frame"] + meta["bops"]["policy"] for meta in metas),
        baseline=sum(meta["bops"]["w8a8"] for meta in metas),
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
                return count_of(stream.ledger, whole=False)
            if not order.reads:
                return count_of(stream.ledger, whole=False)
            return count_of(await stream.end(_END_SECONDS), whole=True)
    except Refused as refused:
        return Count(refused=(refused.code, refused.reason))


def main() -> None:
    """See the module."""
    order = Order(**json.loads(sys.stdin.readline()))
    frames = pickle.loads(Path(order.frames).read_bytes())  # our own file
    print(json.dumps(asdict(asyncio.run(_run(order, frames)))), flush=True)


if __name__ == "__main__":
    main()
