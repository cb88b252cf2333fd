"""The harnesses of service and faults can fail: books that do not balance, memory that rises."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import load, soak
from benchmarks.ledger import Ledger
from benchmarks.load_client import count_of
from service.client.load_figures import Count
from service.wire import Frame, Kind


def result(ledger: Ledger, seq: int) -> None:
    meta = {
        "timings": {"infer": 1.0, "encode": 0.5},
        "bops": {"frame": 1, "policy": 0, "w8a8": 4},
        "is_anchor": True,
        "active_fraction": 1.0,
    }
    ledger.take(Frame(Kind.RESULT, seq, seq, b"", meta).pack())


def drop(ledger: Ledger, seq: int, reason: str = "superseded") -> None:
    ledger.take(json.dumps({"type": "drop", "seq": seq, "reason": reason}))


def ended(ledger: Ledger, results: int, **drops: int) -> None:
    total = sum(drops.values())
    ledger.take(
        json.dumps(
            {
                "type": "stream.ended",
                "received": results + total,
                "results": results,
                "drops": total,
                "drop_reasons": drops,
            }
        )
    )


def books(sent: int) -> Ledger:
    return Ledger(sent={seq: float(seq) for seq in range(sent)})


def test_books_that_balance() -> None:
    ledger = books(3)
    result(ledger, 0)
    drop(ledger, 1)
    assert ledger.problems() == [], "it may still come"
    result(ledger, 2)
    ended(ledger, 2, superseded=1)
    assert ledger.problems(whole=True) == []
    count = count_of(ledger, whole=True)
    assert (count.sent, count.results, count.drops) == (2, 1, {"superseded": 1})
    assert (count.bops, count.baseline) == (1, 4)


def test_frames_that_the_server_never_got_need_no_answer() -> None:
    ledger = books(5)
    result(ledger, 0)
    ended(ledger, 1)
    assert ledger.problems() == []
    assert "5 sent, 1 received" in ledger.problems(whole=True)


WRONG: dict[str, tuple[Callable[[Ledger], None], str]] = {
    "twice": (lambda x: (result(x, 0), drop(x, 0)), "answered before"),
    "of nothing": (lambda x: result(x, 7), "which was not sent"),
    "late": (lambda x: (ended(x, 0), result(x, 0)), "after stream.ended"),
    "lost": (lambda x: (result(x, 0), ended(x, 2)), "no answer for 1 frames"),
    "miscounted": (
        lambda x: (drop(x, 0), ended(x, 1)),
        "the server counts (1, 0, {})",
    ),
    "out of order": (lambda x: (result(x, 1), ended(x, 1)), "the first is 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_books_that_do_not_balance(name: str) -> None:
    ledger = books(2)
    act, words = WRONG[name]
    act(ledger)
    assert any(words in problem for problem in ledger.problems()), ledger.problems()


def test_a_slope_and_its_error() -> None:
    times = list(range(400))
    assert soak.slope(times, [5 + 2 * t for t in times]) == pytest.approx((2, 0), abs=1e-9)
    noise = np.random.default_rng(0).normal(0, 10, 400)
    found, error = soak.slope(times, list(noise))
    assert abs(found) < 3 * error
    assert 0.002 < error < 0.008  # 10 / sqrt(400 * var(t)) is 0.0043
    with pytest.raises(ValueError, match="at least 3"):
        soak.slope([0, 1], [0, 1])


HELD = {"rss": 1000, "descriptors": 15, "threads": 20, "children": 2}
CALM: dict[str, Any] = {
    "problems": [],
    "level": HELD,
    "after": HELD,
    "in_hand_after": {"streams": 0, "jobs": 0.0},
    "starts": 10,
    "ends": 10,
    "slope_mb_per_hour": 30.0,
    "slope_error_mb_per_hour": 6.0,
    "starts_per_second": 2.0,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"problems": ["x"]}, "1 accounts"),
        ({"after": HELD | {"descriptors": 22}}, "22 descriptors"),
        ({"after": HELD | {"threads": 23}}, "23 threads"),
        ({"after": HELD | {"children": 3}}, "3 children"),
        ({"after": HELD | {"rss": 1060}}, "grew by 6.0 %"),
        ({"in_hand_after": {"streams": 1}}, "1 streams left"),
        ({"ends": 9}, "9 ended"),
        ({"slope_mb_per_hour": 33.0}, "rises by 33"),
        ({"starts_per_second": 0.5}, "0.50 starts"),
    ],
)
def test_a_soak_is_judged(change: dict[str, Any], words: str) -> None:
    assert soak.judge(CALM) == []
    (broken,) = soak.judge(CALM | change)
    assert words in broken


ROW: dict[str, Any] = load.summary(
    [
        Count(
            sent=100,
            results=100,
            seconds=10.0,
            latencies=[20.0] * 100,
            stages={"infer": [10.0] * 100, "encode": [0.5] * 100},
            anchors=[False] * 100,
            active=[0.5] * 100,
            bops=1.0,
            baseline=4.0,
            close=(1000, "ended"),
        )
    ],
    0.5,
)


def rows(*hung: int, **change: Any) -> list[dict[str, Any]]:
    return [ROW | {"growth_mb": 1.0, "hung": h} | (change if h else {}) for h in hung]


def loaded(**change: Any) -> dict[str, Any]:
    found = {
        "sustained": 1,
        "steady": [ROW],
        "overload": ROW,
        "declared": ROW,
        "reader": load.reader(rows(0, 1)),
        "machine": {"cpu": "none", "cores": 1},
        "clip": "none",
        "seconds": 10.0,
    }
    return found | change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sustained": 0}, "not even one"),
        ({"steady": [ROW | {"problems": ["x"]}]}, "1 clients: x"),
        ({"overload": ROW | {"latency_ms": {"p99": 501.0}}}, "99 % within 501 ms"),
        ({"declared": ROW | {"lowest_share": 0.9}}, "let in got 90 %"),
        ({"overload": ROW | {"results": 99}}, "without result or reason"),
        ({"overload": ROW | {"unsaid": [[1011, "x"]]}}, "streams were closed"),
        ({"reader": load.reader(rows(0, 1, results_per_second=9.0))}, "costs the others 10.0 %"),
        ({"reader": load.reader(rows(0, 1, growth_mb=21.0))}, "costs the server 21 MB"),
    ],
)
def test_a_load_is_judged(change: dict[str, Any], words: str) -> None:
    assert load.judge(loaded()) == []
    (broken,) = load.judge(loaded(**change))
    assert words in broken


def test_what_is_sustained() -> None:
    assert load.sustained(ROW)
    assert not load.sustained(ROW | {"lowest_share": 0.97})
    assert not load.sustained(ROW | {"admitted": 0})
    text = load.as_markdown(loaded())
    assert "| 1 | 1 | 10.0 | 100 of 100 | none | 20 / 20 / 20 | 10 / 10 | 0.5 | 75 % |" in text
