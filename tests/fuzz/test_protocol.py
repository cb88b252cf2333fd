"""The protocol takes any message: no exception, no growth, and its books stay balanced."""

from __future__ import annotations

import json
import os
import resource
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import psutil
import pytest
from pydantic import TypeAdapter

from service.messages import Ended, ResultMeta, Started
from service.protocol import (
    EndRequested,
    Flags,
    FrameReceived,
    Refused,
    ResumeRequested,
    ServerProtocol,
    StartRequested,
    State,
    UpdateRequested,
    dump,
)
from service.wire import Frame, Kind
from tests.fuzz.mutation import mutated, mutated_object

MESSAGES = int(os.environ.get("FUZZ_MESSAGES", "20000"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
MAX_GROWTH = 16 << 20  # bytes, after the first tenth

STARTS: list[dict[str, Any]] = [
    {"type": "stream.start"},
    {"type": "stream.start", "mode": "lossless", "input": "rgb", "fps": 10, "id": "yard"},
    {"type": "stream.start", "input": "h264", "deadline_ms": 100, "model": "street"},
    {"type": "stream.start", "outputs": {"mask": "png", "bit_map": True, "layers": True}},
    {"type": "stream.start", "period": 8, "threshold": 0.03, "policy": "relative"},
    {"type": "stream.start", "pose": {"box": [1, 2, 30, 40], "follow": False}},
    {"type": "stream.start", "resume": "resume_" + "a" * 43},
    {
        "type": "stream.start",
        "vos": {"objects": [{"id": 1, "rle": {"size": [4, 4], "counts": [0, 16]}}]},
        "sinks": [{"kind": "ndjson"}],
    },
]
UPDATES: list[dict[str, Any]] = [
    {"type": "stream.update", "period": 4, "threshold": 0.1},
    {"type": "stream.update", "outputs": {"mask": "rle"}, "box": [0, 0, 5, 5]},
    {"type": "stream.update", "add_objects": [{"id": 2, "box": [0, 0, 4, 4]}]},
    {"type": "stream.update", "remove_objects": [1]},
]
END = {"type": "stream.end"}
META = TypeAdapter(ResultMeta).validate_python(
    {
        "index": 0,
        "is_anchor": True,
        "anchor_reason": "first_frame",
        "timings": dict.fromkeys(("receive", "decode", "queue", "infer", "encode"), 0.0),
        "bops": {"frame": 1, "policy": 0, "w8a8": 1, "fp32": 16, "saving": 0.0},
        **dict.fromkeys(("mean_bits", "active_fraction", "clipped_fraction"), 0.0),
        **dict.fromkeys(("seq", "pts_us"), 0),
        "backend": "none",
        "blobs": (),
    }
)


def started(request: StartRequested) -> Started:
    """What a server would answer."""
    options = request.options
    facts = {name: getattr(options, name) for name in ("mode", "input", "outputs", "deadline_ms")}
    fixed: dict[str, Any] = {"id": options.id or "x", "model": "street", "task": "segmentation"}
    fixed |= {"precision": "W8A8", "period": 8, "threshold": 0.03, "policy": "relative"}
    fixed |= {"reference": "tracking", "classes": (), "palette": (), "credits": 4}
    fixed |= {"fps": options.fps, "resume": "resume_x"}
    return Started(**facts | fixed)


def messages(rng: Random) -> Iterator[str | bytes]:
    """What one client sends: about right at first, so that every state is reached."""
    start = rng.choice(STARTS)
    kinds = {"rgb": Kind.RGB, "h264": Kind.H264}
    kind = kinds.get(start.get("input", ""), Kind.IMAGE)
    yield json.dumps(start) if rng.random() < 0.7 else mutated_object(start, rng)
    for seq in range(rng.randrange(40)):
        choice = rng.random()
        if choice < 0.55:
            frame = Frame(kind, seq, seq * 40_000, b"body", {"shape": [1, 2]}).pack()
            yield frame if choice < 0.45 else mutated(frame, rng, b'{"blobs":[{"name":1}]}')
        elif choice < 0.8:
            chosen = rng.choice((*UPDATES, *UPDATES, *STARTS, END))
            yield mutated_object(chosen, rng) if choice < 0.72 else json.dumps(chosen)
        elif choice < 0.9:
            text = json.dumps(rng.choice((*UPDATES, *STARTS))).encode()
            yield mutated(text, rng, b"[{}]").decode("utf-8", "replace")
        elif choice < 0.97:
            yield rng.randbytes(rng.randrange(80))
        else:
            yield rng.choice(("[" * 5000, "x" * 70_000, '{"a":' * 2000, "", "1e999", '"\\ud800"'))


def converse(rng: Random, outcomes: Counter[str]) -> int:
    """One connection; how many messages it took."""
    protocol, open_frames, count = ServerProtocol(), [], 0
    for message in messages(rng):
        count += 1
        receive = protocol.receive_text if isinstance(message, str) else protocol.receive_bytes
        was = protocol.state
        event = receive(message)  # type: ignore[arg-type]
        outcomes[type(event).__name__] += 1
        match event:
            case None:
                assert was is State.CLOSED
                break  # nothing is heard any more
            case Refused(error, close):
                outcomes[error.code] += 1
                assert len(dump(error).encode()) < 4096
                assert (close is not None) == error.fatal == (protocol.state is State.CLOSED)
            case StartRequested():
                assert json.loads(protocol.started(started(event)))["type"] == "stream.started"
            case FrameReceived(frame):
                open_frames.append(frame.seq)
            case ResumeRequested():
                break
            case _:
                assert isinstance(event, UpdateRequested | EndRequested)
        while open_frames and rng.random() < 0.6:
            seq = open_frames.pop(rng.randrange(len(open_frames)))
            if rng.random() < 0.5:
                protocol.drop(seq, "deadline")
            else:
                protocol.result(META.model_copy(update={"seq": seq}), (), Flags.NONE)
        assert protocol.received == protocol.results + protocol.drops + protocol.outstanding
    protocol.drop_all("shutdown")
    assert protocol.received == protocol.results + protocol.drops
    return count


def test_any_message_is_an_event_or_a_refusal() -> None:
    rng, outcomes, taken = Random(SEED), Counter[str](), 0
    process, level = psutil.Process(), None
    while taken < MESSAGES:
        taken += converse(rng, outcomes)
        if level is None and taken > MESSAGES / 10:
            level = process.memory_info().rss
    assert level is not None
    grown = process.memory_info().rss - level
    print(f"{taken} messages: {dict(outcomes.most_common())}; memory grew by {grown / 1e6:.1f} MB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert grown < MAX_GROWTH, f"memory grew by {grown} bytes (peak {peak} KiB)"
    reached = {"StartRequested", "UpdateRequested", "EndRequested", "FrameReceived", "NoneType"}
    codes = {"bad_message", "bad_frame", "bad_state", "bad_options", "message_too_big"}
    assert reached | codes <= outcomes.keys()


@pytest.mark.parametrize("message", [Ended, Started, ResultMeta])
def test_what_the_server_says_is_never_taken_from_a_client(message: Any) -> None:
    protocol = ServerProtocol()
    kind = message.model_fields["type"].default if "type" in message.model_fields else "result"
    event = protocol.receive_text(json.dumps({"type": kind}))
    assert isinstance(event, Refused)
    assert event.error.fatal
