"""Text messages of `resq.v1` as checked, frozen models. No I/O."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from resq_core.errors import OptionError
from service.sink_options import SinkOptions

__all__ = [
    "Blob",
    "Bops",
    "Degraded",
    "Drop",
    "Ended",
    "ErrorMessage",
    "InputKind",
    "Ledger",
    "ObjectMask",
    "Outputs",
    "PoseStart",
    "Reset",
    "ResultMeta",
    "Rle",
    "SinkState",
    "Started",
    "Stats",
    "StreamEnd",
    "StreamStart",
    "StreamUpdate",
    "Timings",
    "VosStart",
    "explain",
    "parse_box",
]

MAX_PERIOD = 1_000_000
MAX_DEADLINE_MS = 60_000
MAX_FPS = 240
MAX_OBJECTS = 32
MAX_SINKS = 8

InputKind = Literal["image", "h264", "vp8", "rgb"]
Period = Annotated[int, Field(ge=1, le=MAX_PERIOD)]
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]
StreamId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Box = Annotated[list[Coordinate], Field(min_length=4, max_length=4)]
ObjectId = Annotated[int, Field(ge=1, le=255)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())


class Outputs(_Message):
    """What a result carries. `mask`: palette PNG, zlib-compressed class ids, run lengths or
    polygons of each id as JSON (see `service.masks`), or none."""

    mask: Literal["png", "zlib", "rle", "polygons", "none"] = "zlib"
    bit_map: bool = False
    layers: bool = False


class Rle(_Message):
    """A mask as COCO run lengths: `size` is [h, w]; `counts` run down the columns, as numbers or in
    COCO's compressed text.
    """

    size: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    counts: list[Annotated[int, Field(ge=0)]] | str


class ObjectMask(_Message):
    """One object to follow, by its mask or by a box that it fills; `id` is its value in results."""

    id: ObjectId
    rle: Rle | None = None
    box: Box | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ObjectMask:
        if (self.rle is None) == (self.box is None):
            raise ValueError("exactly one of rle and box")
        return self


class PoseStart(_Message):
    """Whose pose: `box` is [x, y, width, height] in pixels, None takes the whole picture; with
    `follow` it moves along with the keypoints, at anchors only.
    """

    box: Box | None = None
    follow: bool = True


class VosStart(_Message):
    """What to segment: the first frame's objects, as a palette PNG in base64 whose indices are the
    ids (0 is background), or one by one. `memory_limit`: frames that are remembered.
    """

    png: str | None = None
    objects: Annotated[list[ObjectMask], Field(max_length=MAX_OBJECTS)] = []
    memory_limit: Annotated[int, Field(ge=1, le=64)] = 10


class StreamStart(_Message):
    """Client: open the stream. What is None takes the server's default. With `fps` the server keeps
    room for so many frames per second, or refuses; without, the stream gets what is left. `resume`
    stands alone: it is the token of a stream whose connection broke, and goes on with that.
    """

    type: Literal["stream.start"] = "stream.start"
    id: StreamId | None = None
    model: Name | None = None
    precision: Name | None = None
    period: Period | None = None
    threshold: Threshold | None = None
    policy: Literal["paper", "relative"] | None = None
    reference: Literal["keyframe", "previous", "tracking"] | None = None
    mode: Literal["live", "lossless"] = "live"
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] | None = None
    fps: Annotated[float, Field(gt=0, le=MAX_FPS)] | None = None
    input: InputKind = "image"
    outputs: Outputs = Outputs()
    pose: PoseStart | None = None
    vos: VosStart | None = None
    sinks: Annotated[list[SinkOptions], Field(max_length=MAX_SINKS)] = []
    resume: Annotated[str, Field(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _resume_alone(self) -> StreamStart:
        if self.resume is not None and self.model_fields_set - {"type", "resume"}:
            raise ValueError("resume without any other option: the stream keeps its own")
        return self


class StreamUpdate(_Message):
    """Client: change options from the next frame on; what is None stays. `box` moves the crop of a
    pose stream, objects come and go in a VOS stream; both make the next frame an anchor.
    """

    type: Literal["stream.update"] = "stream.update"
    period: Period | None = None
    threshold: Threshold | None = None
    outputs: Outputs | None = None
    box: Box | None = None
    add_objects: Annotated[list[ObjectMask], Field(max_length=MAX_OBJECTS)] = []
    remove_objects: Annotated[list[ObjectId], Field(max_length=MAX_OBJECTS)] = []


class StreamEnd(_Message):
    """Client: no frame follows; frames on their way are still answered."""

    type: Literal["stream.end"] = "stream.end"


class Ledger(_Message):
    """What became of the frames so far; `last_seq` is the last that arrived, None before any."""

    last_seq: int | None
    received: int
    results: int
    drops: int
    drop_reasons: dict[str, int]


class Degraded(_Message):
    """What the operator's settings took from a stream while the server is short of time: the period
    and the threshold in force instead of the client's, and one frame of how many is run.
    """

    level: int
    period: int
    threshold: float
    one_of: int


class Started(_Message):
    """Server: the options in force, what the ids mean, and how many frames may be on their way.
    `resume` continues the stream over another connection, once this one broke; where that
    happened, `resumed` is the ledger up to there.
    """

    type: Literal["stream.started"] = "stream.started"
    id: str
    model: str
    task: str
    precision: str
    period: int
    threshold: float
    policy: str
    reference: str
    mode: Literal["live", "lossless"]
    deadline_ms: int | None
    fps: float | None = None
    input: InputKind
    outputs: Outputs
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    joints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    credits: int
    resume: str | None = None
    resumed: Ledger | None = None


class Drop(_Message):
    """Server: this frame gets no result, and why. Gives its credit back."""

    type: Literal["drop"] = "drop"
    seq: int
    reason: str
    message: str | None = None


class SinkState(_Message):
    """What became of results on their way to a sink; `lost` by reason."""

    kind: str
    target: str
    delivered: int
    waiting: int
    lost: dict[str, int]
    error: str | None


class Stats(_Message):
    """Server: running totals. `saving` is 1 - bops / bops of W8A8 frame quantization."""

    type: Literal["stats"] = "stats"
    received: int
    results: int
    drops: int
    anchors: int
    fps: float
    saving: float
    mean_bits: float
    degraded: Degraded | None = None
    sinks: list[SinkState] = []


class Reset(_Message):
    """Server: stream state was lost; the next frame runs as an anchor. idr: of encoded video what
    comes before the next IDR is dropped, so the sender had better make one at once."""

    type: Literal["stream.reset"] = "stream.reset"
    reason: str
    idr: bool = False


class Ended(_Message):
    """Server: the stream's totals. `received` is always `results` + `drops`."""

    type: Literal["stream.ended"] = "stream.ended"
    reason: str
    received: int
    results: int
    drops: int
    drop_reasons: dict[str, int]
    anchors: int
    bops: int
    policy_bops: int
    bops_w8a8: int
    bops_fp32: int
    saving: float
    mean_bits: float


class ErrorMessage(_Message):
    """Server: something was wrong. `fatal` ones are followed by a close."""

    type: Literal["error"] = "error"
    code: str
    message: str
    expected: str | None = None
    field: str | None = None
    fatal: bool = False


class Timings(_Message):
    """Milliseconds in each stage of one frame."""

    receive: float
    decode: float
    queue: float
    infer: float
    encode: float


class Bops(_Message):
    """Bit operations of one frame beside its baselines."""

    frame: int
    policy: int
    w8a8: int
    fp32: int
    saving: float


class Blob(_Message):
    """One blob of a result. Formats: `png` palette picture; `zlib-ids` uint8 class ids;
    `zlib-u8` bits times 30, rounded; `zlib-json` a list of objects (`shape` is its length), or a
    mask as run lengths or polygons (`shape` is the picture's).
    """

    name: Literal["mask", "bit_map", "layers"]
    format: Literal["png", "zlib-ids", "zlib-u8", "zlib-json"]
    size: int
    shape: tuple[int, ...]


class ResultMeta(_Message):
    """The meta of a result frame; its blobs follow in the order of `blobs`. Of a pose stream:
    `keypoints` (x, y in pixels of the picture, score) and the `box` that was looked at. `backend`
    ran the frame: `reference`, or `native` and its instruction set.
    """

    seq: int
    pts_us: int
    index: int
    is_anchor: bool
    anchor_reason: str | None
    timings: Timings
    bops: Bops
    mean_bits: float
    active_fraction: float
    clipped_fraction: float
    backend: str
    keypoints: tuple[tuple[float, float, float], ...] | None = None
    box: tuple[float, float, float, float] | None = None
    degraded: Degraded | None = None
    blobs: tuple[Blob, ...]


def parse_box(text: str) -> list[float]:
    """A box written as `x,y,width,height`.

    Raises:
        OptionError: it is something else.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise OptionError(f"box is {text!r}; expected x,y,width,height in pixels")
    return numbers


def explain(error: ValidationError) -> tuple[str, str]:
    """The first problem of a message as (field, "field is ...; expected ...")."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "message"
    if first["type"] == "extra_forbidden":
        return field, f"{field} is not an option of this message"
    got: Any = first.get("input")
    secret = first["loc"][:1] == ("sinks",)  # or near one
    shown = repr(got) if len(repr(got)) <= 80 and not secret else f"{type(got).__name__}"
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    wanted = wanted.replace("List should have", "a list with")
    return field, f"{field} is {shown}; expected {wanted}"
