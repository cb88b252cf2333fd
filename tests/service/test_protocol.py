from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.messages import Outputs, Started
from service.protocol import (
    Close,
    EndRequested,
    FrameReceived,
    Refused,
    ServerProtocol,
    StartRequested,
    State,
    UpdateRequested,
)
from service.wire import HEADER_SIZE, Flags, Frame, Kind, WireError


def started(mode: str = "live", credits: int = 3) -> Started:
    return Started.model_validate(
        {
            "id": "a",
            "model": "m",
            "task": "segmentation",
            "precision": "W8A8->W8A4",
            "period": 4,
            "threshold": 0.05,
            "policy": "relative",
            "reference": "tracking",
            "mode": mode,
            "deadline_ms": None,
            "input": "image",
            "outputs": Outputs(),
            "classes": ("road",),
            "palette": ((1, 2, 3),),
            "credits": credits,
        }
    )


def running(mode: str = "live", credits: int = 3) -> ServerProtocol:
    protocol = ServerProtocol()
    event = protocol.receive_text('{"type": "stream.start"}')
    assert isinstance(event, StartRequested)
    protocol.started(started(mode, credits))
    return protocol


def image(seq: int) -> bytes:
    return Frame(Kind.IMAGE, seq, 0, b"x").pack()


def test_header_layout_is_the_documented_one() -> None:
    data = Frame(Kind.RESULT, 7, -5, b"body", {"a": 1}, Flags.IDR | Flags.LAST).pack()
    assert HEADER_SIZE == 24
    assert struct.unpack_from("<BBBBIqII", data) == (0x51, 1, 16, 9, 7, -5, 7, 0)
    assert data[24:] == b'{"a":1}body'


@given(
    st.sampled_from(list(Kind)),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=64),
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=4),
    st.integers(0, 15),
)
def test_frames_survive_the_wire(
    kind: Kind, seq: int, pts: int, body: bytes, meta: dict[str, Any], flags: int
) -> None:
    frame = Frame(kind, seq, pts, body, meta, Flags(flags))
    assert Frame.unpack(frame.pack()) == frame


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WireError, match="out of range"):
        Frame(Kind.IMAGE, 2**32, 0, b"").pack()


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [(0, 0, "starts with"), (1, 9, "version"), (2, 99, "kind"), (3, 128, "flags"), (16, 9, "meta")],
)
def test_a_bad_header_says_what_is_wrong(at: int, value: int, words: str) -> None:
    data = bytearray(image(0))
    data[at] = value
    with pytest.raises(WireError, match=words):
        Frame.unpack(bytes(data))


def test_blobs_are_cut_by_their_descriptors() -> None:
    meta = {"blobs": [{"name": "mask", "size": 2}, {"name": "bit_map", "size": 3}]}
    blobs = Frame(Kind.RESULT, 0, 0, b"aabbb", meta).blobs()
    assert {name: data for name, (_, data) in blobs.items()} == {"mask": b"aa", "bit_map": b"bbb"}
    with pytest.raises(WireError, match="belong to no blob"):
        Frame(Kind.RESULT, 0, 0, b"aabbbc", meta).blobs()
    with pytest.raises(WireError, match="size"):
        Frame(Kind.RESULT, 0, 0, b"aabb", meta).blobs()


@given(st.lists(st.binary(max_size=60) | st.text(max_size=60), max_size=6), st.booleans())
def test_any_input_gives_an_event_or_nothing(inputs: list[bytes | str], run: bool) -> None:
    protocol = running() if run else ServerProtocol()
    for item in inputs:
        closed = protocol.state is State.CLOSED
        event = (
            protocol.receive_text(item) if isinstance(item, str) else protocol.receive_bytes(item)
        )
        assert (event is None) == closed


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(["id", "model", "period", "threshold", "mode", "outputs", "input", "zzz"])


@given(st.dictionaries(FIELDS, JSON, max_size=3))
def test_start_options_are_taken_or_refused_with_their_field(options: dict[str, Any]) -> None:
    event = ServerProtocol().receive_text(json.dumps({"type": "stream.start", **options}))
    if isinstance(event, Refused):
        assert event.close is Close.BAD_OPTIONS
        assert event.error.fatal
        assert event.error.field is not None
        assert event.error.field.split(".")[0] in options
    else:
        assert isinstance(event, StartRequested)
        assert set(options) <= set(type(event.options).model_fields)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("period", 0, "greater than or equal to 1"),
        ("period", "4", "integer"),
        ("period", True, "integer"),
        ("threshold", -0.1, "greater than or equal to 0"),
        ("threshold", float("nan"), "finite"),
        ("mode", "fast", "'live' or 'lossless'"),
        ("outputs", {"mask": "gif"}, "'rle', 'polygons' or 'none'"),
        ("id", "a b", "pattern"),
        ("colour", 1, "not an option"),
    ],
)
def test_bad_start_options_name_field_and_expectation(field: str, value: Any, words: str) -> None:
    event = ServerProtocol().receive_text(json.dumps({"type": "stream.start", field: value}))
    assert isinstance(event, Refused)
    assert event.error.field is not None
    assert event.error.field.startswith(field)
    assert words in event.error.message


def test_a_bad_update_is_not_fatal() -> None:
    protocol = running()
    event = protocol.receive_text('{"type": "stream.update", "threshold": NaN}')
    assert isinstance(event, Refused)
    assert event.close is None
    assert not event.error.fatal
    good = protocol.receive_text('{"type": "stream.update", "period": 9}')
    assert isinstance(good, UpdateRequested)
    assert good.options.period == 9


def test_order_is_guarded() -> None:
    early = ServerProtocol().receive_bytes(image(0))
    assert isinstance(early, Refused)
    assert early.close is Close.VIOLATION
    twice = running().receive_text('{"type": "stream.start"}')
    assert isinstance(twice, Refused)
    ended = running()
    assert isinstance(ended.receive_text('{"type": "stream.end"}'), EndRequested)
    assert isinstance(ended.receive_bytes(image(0)), Refused)


def test_seq_must_grow_and_kind_must_match() -> None:
    protocol = running()
    assert isinstance(protocol.receive_bytes(image(5)), FrameReceived)
    again = protocol.receive_bytes(image(5))
    assert isinstance(again, Refused)
    assert "grow" in again.error.message
    other = running().receive_bytes(Frame(Kind.H264, 0, 0, b"").pack())
    assert isinstance(other, Refused)
    assert "IMAGE" in other.error.message


def test_lossless_clients_keep_to_their_credits() -> None:
    protocol = running("lossless", credits=2)
    protocol.receive_bytes(image(0))
    protocol.receive_bytes(image(1))
    protocol.drop(0, "bad_frame")
    assert isinstance(protocol.receive_bytes(image(2)), FrameReceived)
    over = protocol.receive_bytes(image(3))
    assert isinstance(over, Refused)
    assert over.close is Close.VIOLATION


def test_every_frame_is_answered_exactly_once() -> None:
    protocol = running()
    for seq in range(3):
        protocol.receive_bytes(image(seq))
    assert json.loads(protocol.drop(1, "deadline"))["reason"] == "deadline"
    with pytest.raises(RuntimeError, match="exactly once"):
        protocol.drop(1, "deadline")
    assert [json.loads(text)["seq"] for text in protocol.drop_all("ended")] == [0, 2]
    assert protocol.received == protocol.results + protocol.drops == 3
    assert protocol.outstanding == 0


def test_long_text_is_refused() -> None:
    event = ServerProtocol().receive_text(" " * (64 * 1024 + 1))
    assert isinstance(event, Refused)
    assert event.close is Close.TOO_BIG
