from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from service.engine import Priority
from service.outbox import MAX_TEXTS, Outbox
from service.queues import Closed, Queue
from service.registry import DuplicateIdError, FullError, Registry
from service.scheduler import Scheduler


@pytest.fixture
async def scheduler() -> Iterator[Scheduler]:  # type: ignore[misc]
    scheduler = Scheduler(1)
    yield scheduler
    scheduler.close()


async def test_equal_lanes_take_turns(scheduler: Scheduler) -> None:
    order: list[int] = []

    async def use(number: int) -> None:
        lane = scheduler.lane()
        for _ in range(5):
            await lane.run(lambda: order.append(number) or time.sleep(0.005))  # type: ignore[func-returns-value]

    await asyncio.gather(use(0), use(1), use(2))
    assert order == [0, 1, 2] * 5


async def test_clips_wait_for_live_work(scheduler: Scheduler) -> None:
    order: list[str] = []

    async def use(name: str, priority: Priority, count: int) -> None:
        lane = scheduler.lane(priority)
        for _ in range(count):
            await lane.run(lambda: order.append(name) or time.sleep(0.005))  # type: ignore[func-returns-value]

    await asyncio.gather(use("clip", Priority.CLIP, 6), use("live", Priority.LIVE, 6))
    assert order == ["clip"] + ["live"] * 6 + ["clip"] * 5


async def test_clips_wait_for_the_next_of_a_lane_whose_owner_is_far_away() -> None:
    order: list[str] = []
    with closing(Scheduler(1, patience=1.0)) as scheduler:

        async def use(name: str, priority: Priority, count: int, way: float) -> None:
            lane = scheduler.lane(priority)
            for _ in range(count):
                await lane.run(lambda: order.append(name))
                await asyncio.sleep(way)

        began = time.perf_counter()
        clips = use("clip", Priority.CLIP, 4, 0)
        await asyncio.gather(clips, use("live", Priority.LIVE, 4, 0.01))
        assert order == ["clip"] + ["live"] * 4 + ["clip"] * 3
        assert time.perf_counter() - began >= 1.0
        await asyncio.wait_for(use("clip", Priority.CLIP, 2, 0), 5)  # nobody live: at once


async def test_a_lane_runs_one_thing_at_a_time(scheduler: Scheduler) -> None:
    lane, gate = scheduler.lane(), threading.Event()
    first = asyncio.create_task(lane.run(gate.wait))
    await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match="one thing at a time"):
        await lane.run(gate.wait)
    first.cancel()
    waiting = asyncio.create_task(lane.idle())
    await asyncio.sleep(0.01)
    assert not waiting.done(), "the thread still works although nobody waits for it"
    gate.set()
    await waiting


async def test_errors_come_back_and_the_thread_goes_on(scheduler: Scheduler) -> None:
    def fail() -> None:
        raise ValueError("no")

    lane = scheduler.lane()
    with pytest.raises(ValueError, match="no"):
        await lane.run(fail)
    assert await lane.run(lambda: 3) == 3


async def test_waiting_work_that_is_cancelled_never_runs(scheduler: Scheduler) -> None:
    gate, ran = threading.Event(), []
    running = asyncio.create_task(scheduler.lane().run(gate.wait))
    lane = scheduler.lane()
    waiting = asyncio.create_task(lane.run(lambda: ran.append(1)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    gate.set()
    await running
    await lane.idle()
    assert ran == []


async def test_a_queue_keeps_to_its_policy_when_full() -> None:
    queue: Queue[int] = Queue(2)
    assert [queue.offer(i) for i in range(3)] == [True, True, False]
    assert queue.push(9) == 0
    putting = asyncio.create_task(queue.put(10))
    await asyncio.sleep(0)
    assert not putting.done()
    assert [await queue.get() for _ in range(3)] == [1, 9, 10]
    queue.offer(11)
    queue.close()
    assert not queue.offer(12)
    assert queue.push(13) == 13
    assert await queue.get() == 11
    with pytest.raises(Closed):
        await queue.get()
    with pytest.raises(Closed):
        await queue.put(14)
    with pytest.raises(ValueError, match="at least 1"):
        Queue(0)


def test_the_outbox_tells_when_texts_pile_up() -> None:
    outbox = Outbox(newest_wins=True)
    for _ in range(MAX_TEXTS):
        outbox.text("x")
    assert not outbox.overflown
    outbox.text("x")
    assert outbox.overflown


class Named:
    waiting = False

    def describe(self) -> dict[str, object]:
        return {}

    def stop(self, reason: str) -> None:
        self.reason = reason


async def test_a_slot_released_twice_frees_one_place() -> None:
    registry, first, second = Registry(2, 2), Named(), Named()
    slot, other = registry.admit("one"), registry.admit("one")
    assert slot.name("a", first) == "a"
    with pytest.raises(DuplicateIdError):
        other.name("a", second)
    assert len(other.name(None, second)) == 16
    with pytest.raises(FullError):
        registry.admit("one")
    slot.release()
    slot.release()
    registry.admit("one")
    with pytest.raises(FullError):
        registry.admit("one")
    registry.drain("shutdown")
    assert second.reason == "shutdown"
    with pytest.raises(FullError, match="shutting down"):
        registry.admit("one")
