"""Who gets how much of the workers' time: the policy alone, times passed in."""

from __future__ import annotations

from itertools import pairwise

import pytest

from service.capacity import Capacity, OverCapacityError, Share
from service.config import ConfigError, load_config
from service.costs import Costs
from service.degrade import Effects, Measure, levels

M, P = "street", "W8A8->W8A4"


def capacity(
    workers: int = 2,
    share: float = 0.8,
    anchor: float = 0.1,
    residual: float = 0.02,
    measures: tuple[Measure, ...] = (),
) -> Capacity:
    found = Capacity(workers, share, levels(measures))
    found.measure(M, P, True, anchor)
    found.measure(M, P, False, residual)
    return found


def admit(c: Capacity, fps: float | None, period: int = 8, live: bool = True) -> Share:
    return c.admit(M, P, period, fps, live=live)


def settle(c: Capacity, share: Share, anchor: float, residual: float, frames: int = 200) -> None:
    """The stream's own frames, of which there are enough to count."""
    for i in range(frames):
        c.note(share, 0.0, i % share.period == 0, anchor if i % share.period == 0 else residual)


def same(costs: Costs | None, anchor: float, residual: float) -> bool:
    return costs is not None and (costs.anchor, costs.residual) == pytest.approx((anchor, residual))


def test_the_cost_of_a_period() -> None:
    assert Costs(0.1, 0.02).per_frame(1) == pytest.approx(0.1)
    assert Costs(0.1, 0.02).per_frame(8) == pytest.approx((0.1 + 7 * 0.02) / 8)


def test_streams_fit_until_the_limit_and_a_share_is_free_at_once() -> None:
    c = capacity()  # 1.6 workers, 0.03 s a frame
    shares = [admit(c, 10) for _ in range(5)]
    assert c.reserved == pytest.approx(1.5)
    with pytest.raises(OverCapacityError) as caught:
        admit(c, 10)
    text = str(caught.value)
    assert caught.value.field == "fps"
    assert "0.30 workers (30 ms each" in text
    assert "0.10 of 1.60 are free" in text
    assert "up to 3.3 would fit" in text
    admit(c, 3.3)
    c.free(shares[0])
    c.free(shares[0])
    admit(c, 10)
    assert c.reserved == pytest.approx(0.3 * 5 + 0.099)


def test_one_stream_cannot_use_two_workers() -> None:
    c = capacity(workers=8)
    with pytest.raises(OverCapacityError, match=r"up to 26\.6 would fit"):
        admit(c, 30)
    admit(c, 26.6)


def test_nothing_is_refused_before_anything_is_measured() -> None:
    c = Capacity(1, 0.8)
    share = admit(c, 240)
    assert c.reserved == 0
    c.note(share, 0.0, True, 0.1)
    assert c.reserved == pytest.approx(24)
    with pytest.raises(OverCapacityError, match="no rate would fit now"):
        admit(c, 0.1)
    assert admit(c, None).demand(Effects()) == 0


def test_a_deadline_below_a_frame_is_refused() -> None:
    c = capacity()
    with pytest.raises(OverCapacityError, match="deadline_ms is 99") as caught:
        c.admit(M, P, 8, None, 0.099)
    assert caught.value.field == "deadline_ms"
    c.admit(M, P, 8, None, 0.101)


def test_a_streams_own_figures_count_once_it_has_run() -> None:
    c = capacity()
    share = admit(c, 10)
    settle(c, share, 0.2, 0.04)
    assert same(share.costs, 0.2, 0.04)
    assert c.reserved == pytest.approx(0.6)
    other = admit(c, 1)
    assert other.costs is not None
    assert other.costs.residual == pytest.approx(0.04), "streams teach their model's figures"
    assert c.costs(M, "W8A8") is None, "each precision has its own"


def test_single_pauses_do_not_count() -> None:
    c = capacity()
    share = admit(c, 10)
    settle(c, share, 0.1, 0.02)
    c.note(share, 0.0, False, 5.0)
    c.note(share, 0.0, True, 5.0)
    assert same(share.costs, 0.1, 0.02)


def test_frames_beyond_the_declared_rate_have_no_claim() -> None:
    share = admit(capacity(), 10)
    now, within = 0.0, 0
    for _ in range(300):  # 30 per second for ten seconds
        now += 1 / 30
        within += share.within(now)
    assert 100 <= within <= 102
    assert [share.within(now + 5) for _ in range(4)] == [True, True, False, False]
    assert not admit(capacity(), None).within(0.0)


def test_what_the_next_frame_takes_is_known_while_it_is_fresh() -> None:
    c = capacity()
    share = admit(c, 10, period=4)
    assert share.expected(0.0, Effects(), True) == 0
    for i in range(10):
        c.note(share, 10.0, i % 4 == 0, 0.1 if i % 4 == 0 else 0.02)
    assert share.expected(10.1, Effects(), False) == pytest.approx(0.02)
    assert share.expected(10.1, Effects(), True) == pytest.approx(0.1)
    for _ in range(2):
        c.note(share, 10.0, False, 0.02)
    assert share.expected(10.1, Effects(), False) == pytest.approx(0.1), "the period ends"
    assert share.expected(10.1, Effects(level=1, period=2), False) == pytest.approx(0.02)
    assert share.expected(13.0, Effects(), False) == 0


def test_a_slow_start_or_pause_does_not_keep_a_stream_from_its_deadline() -> None:
    c = capacity()
    share = admit(c, 10, period=4)
    c.note(share, 10.0, True, 0.9)  # plans its work
    assert share.expected(10.1, Effects(), True) == 0
    assert share.expected(10.1, Effects(), False) == 0
    for i in range(20):
        c.note(share, 10.0, i % 4 == 3, 0.1 if i % 4 == 3 else 0.02)
    c.note(share, 10.0, False, 3.0)
    assert share.expected(10.1, Effects(), False) == pytest.approx(0.02)
    for _ in range(8):  # slow for long, then quick again
        c.note(share, 10.0, False, 3.0)
    assert share.expected(10.1, Effects(), True) == pytest.approx(0.1)
    assert share.expected(10.1, Effects(level=1, period=9), False) == pytest.approx(3.0)
    c.note(share, 10.0, False, 0.02)
    assert share.expected(10.1, Effects(level=1, period=9), False) == pytest.approx(0.02)


def test_a_shorter_period_must_fit_too() -> None:
    c = capacity(workers=1)
    share = admit(c, 20)  # 0.6
    with pytest.raises(OverCapacityError):
        c.change(share, 1)
    assert share.period == 8
    assert c.reserved == pytest.approx(0.6)
    c.change(share, 16)
    c.change(share, 8)
    assert c.reserved == pytest.approx(0.6)


def test_the_load_is_that_of_the_last_seconds() -> None:
    c = capacity()
    share = admit(c, None)
    for i in range(1, 1001):
        c.note(share, i * 0.1, False, 0.05)
    assert c.measured(100.0) == pytest.approx(0.5, rel=0.05)
    assert c.measured(130.0) < 0.01
    assert c.describe(100.0)["limit"] == pytest.approx(1.6)


def test_levels_come_in_the_operators_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(()) == (Effects(),)
    found = levels((Measure.RATE, Measure.PERIOD, Measure.THRESHOLD))
    assert [e.level for e in found] == list(range(7))
    assert [(e.one_of, e.period) for e in found] == [(1, 1), (2, 1), (2, 2), *[(2, 4)] * 4]
    assert [e.threshold for e in found[4:]] == [1.5, 1.5**2, 1.5**3]
    assert load_config(degrade="threshold, Period").degrade == (Measure.THRESHOLD, Measure.PERIOD)
    for wrong in ("speed", "rate,rate"):
        monkeypatch.setenv("RESQ_DEGRADE", wrong)
        with pytest.raises(ConfigError, match=f"RESQ_DEGRADE is '{wrong}'"):
            load_config()


def test_streams_are_degraded_where_that_makes_room() -> None:
    c = capacity(workers=1, measures=(Measure.PERIOD, Measure.RATE))  # 0.8
    admit(c, 20)  # 0.6 at T=8, 0.5 at 16, 0.45 at 32
    assert c.effects.level == 0
    admit(c, 10)  # 0.3: together 0.75 at T=16
    assert c.effects == Effects(level=1, period=2)
    assert c.reserved == pytest.approx(0.75)
    admit(c, 20)  # 0.45 + 0.225 + 0.45 at T=32: only every second frame fits
    assert c.effects == Effects(level=3, period=4, one_of=2)
    assert c.reserved == pytest.approx(0.5625)
    with pytest.raises(OverCapacityError, match=r"up to 21\.1 would fit"):
        admit(c, 100)
    assert c.effects.level == 3, "who is refused costs the others nothing"


def test_what_is_taken_makes_room_where_a_stream_runs_too() -> None:
    c = capacity(workers=1, measures=(Measure.RATE,))
    admit(c, 20)  # 0.6, and 0.3 of every second frame
    with pytest.raises(OverCapacityError, match=r"0\.40 of 0\.80 are free for one stream"):
        c.admit(M, P, 8, 60, room=0.1)
    assert c.effects.level == 0
    c.admit(M, P, 8, 10, room=0.1)  # 0.15 of the 0.1 that there was and the 0.3 that came free
    assert c.effects.level == 1


def test_no_frame_of_a_lossless_stream_is_taken() -> None:
    c = capacity(workers=1, measures=(Measure.RATE,))
    admit(c, 20, live=False)
    with pytest.raises(OverCapacityError):
        admit(c, 20, live=False)
    admit(c, 10)  # 0.15 of it with every second frame
    assert c.reserved == pytest.approx(0.75)


def test_the_level_follows_what_streams_turn_out_to_need() -> None:
    c = capacity(workers=1, measures=(Measure.PERIOD, Measure.THRESHOLD))
    share = admit(c, 20)
    settle(c, share, 0.3, 0.02)  # 20 * 0.055 = 1.1 of 0.8
    c.tick(100.0)
    c.tick(101.9)
    assert c.effects.level == 0, "not for a moment's sake"
    c.tick(102.0)
    assert c.effects == Effects(level=1, period=2)  # 0.75
    for second in range(103, 120):
        c.tick(float(second))
    assert c.effects.level == 1
    settle(c, share, 0.1, 0.02)  # 0.6 at level 0
    c.tick(120.0)
    c.tick(124.9)
    assert c.effects.level == 1
    c.tick(125.0)
    assert c.effects.level == 0


def test_a_level_that_has_to_come_back_is_lowered_less_and_less_often() -> None:
    """What a threshold saves shows only when it is tried."""
    c = capacity(workers=1, measures=(Measure.THRESHOLD,))
    share = admit(c, 20)
    changes, level = [], 0
    for quarter in range(2400):
        now = 100 + quarter / 4
        residual = 0.04 if c.effects.level == 0 else 0.015  # 0.95 and 0.51 of 0.8
        c.note(share, now, quarter % 8 == 0, 0.1 if quarter % 8 == 0 else residual)
        c.tick(now)
        if c.effects.level != level:
            changes.append(now)
            level = c.effects.level
    times = changes[2::2]  # each time that it was raised again
    gaps = [b - a for a, b in pairwise(times)]
    assert len(gaps) >= 3
    assert all(b > a for a, b in pairwise(gaps))
    c.free(share)
    for quarter in range(40):
        c.tick(1000 + quarter / 4)
    assert c.effects.level == 0


def test_everything_is_taken_before_the_server_gives_in() -> None:
    c = capacity(workers=1, measures=(Measure.THRESHOLD,))
    settle(c, admit(c, 20), 0.1, 0.05)  # 1.125 whatever the threshold
    for second in range(100, 120):
        c.tick(float(second))
    assert c.effects.level == 3
