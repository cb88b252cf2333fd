"""Options of streams and clips as keyword arguments, checked before anything is sent."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from resq_core.errors import InputError, OptionError
from resq_core.naming import nearest
from resq_core.tasks.vos import DAVIS_PALETTE
from service.masks import mask_png
from service.messages import Outputs, PoseStart, StreamStart, StreamUpdate, VosStart, explain

__all__ = [
    "ClipOptions",
    "Encoding",
    "StreamChanges",
    "StreamOptions",
    "clip_query",
    "read_mask",
    "stream_start",
    "stream_update",
]

Encoding = Literal["jpeg", "png", "rgb"]
Box = tuple[float, float, float, float]
Ids = NDArray[np.uint8]
_PALETTE: list[tuple[int, int, int]] = [(int(r), int(g), int(b)) for r, g, b in DAVIS_PALETTE]


class ModelOptions(TypedDict, total=False):
    """What runs; all that is not given is the server's or the model's own.

    model: as `Client.models` lists it. precision: one that it is calibrated for. period: T, 1 to
    1,000,000 frames. threshold: of the policy, 0 or more. policy, reference: see docs/protocol.md.
    box: of a pose model: (x, y, width, height) in pixels. masks: of a model that follows objects:
    ids uint8 [H, W] of the first frame, 0 is background, or a palette PNG of them.
    """

    model: str | None
    precision: str | None
    period: int | None
    threshold: float | None
    policy: Literal["paper", "relative"] | None
    reference: Literal["keyframe", "previous", "tracking"] | None
    box: Box | None
    masks: Ids | str | Path | None


class StreamOptions(ModelOptions, total=False):
    """Those of `ModelOptions`, and of streams alone:

    live: the newest frame wins, instead of none being lost; None goes by the source.
    encoding: how frames travel. `jpeg` (the default) is small and loses a little, `png` and `rgb`
        are exact; `rgb` costs no time, and bandwidth: 3 bytes a pixel.
    mask, bit_map: whether results carry them; only the mask by default.
    id: 1 to 64 of A-Z a-z 0-9 . _ -; random by default.
    fps: frames per second that the server shall keep room for, or refuse.
    deadline_ms: frames whose result would be older are dropped.
    patience: seconds for which a connection that broke is tried again; 30 by default.
    """

    live: bool | None
    encoding: Encoding
    mask: bool
    bit_map: bool
    id: str | None
    fps: float | None
    deadline_ms: int | None
    patience: float


class StreamChanges(TypedDict, total=False):
    """What can change while a stream runs: see `ModelOptions`."""

    period: int | None
    threshold: float | None
    box: Box | None


class ClipOptions(ModelOptions, total=False):
    """Those of `ModelOptions`."""


def stream_start(options: StreamOptions, live: bool) -> StreamStart:
    """The message that opens a stream.

    Raises:
        OptionError: a value out of range, or an option that there is none of.
        InputError, OSError: masks that cannot be used.
    """
    _check_names(options, StreamOptions)
    values: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    for name in ("live", "patience"):  # the client's own
        values.pop(name, None)
    encoding = values.pop("encoding", "jpeg")
    if encoding not in ("jpeg", "png", "rgb"):
        raise OptionError(f"encoding is {encoding!r}; expected jpeg, png or rgb")
    values["mode"] = "live" if live else "lossless"
    values["input"] = "rgb" if encoding == "rgb" else "image"
    mask, bit_map = values.pop("mask", True), values.pop("bit_map", False)
    masks, box = values.pop("masks", None), values.pop("box", None)
    try:
        if masks is not None:
            values["vos"] = VosStart(png=base64.b64encode(read_mask(masks)).decode())
        if box is not None:
            values["pose"] = PoseStart(box=[float(side) for side in box])
        return StreamStart(
            outputs=Outputs(mask="zlib" if mask else "none", bit_map=bit_map), **values
        )
    except ValidationError as error:
        raise OptionError(explain(error)[1]) from error


def stream_update(changes: StreamChanges) -> StreamUpdate:
    """The message that changes a stream. Raises OptionError as `stream_start`."""
    _check_names(changes, StreamChanges)
    values: dict[str, Any] = {k: v for k, v in changes.items() if v is not None}
    if "box" in values:
        values["box"] = [float(side) for side in values["box"]]
    try:
        return StreamUpdate(**values)
    except ValidationError as error:
        raise OptionError(explain(error)[1]) from error


def clip_query(options: ClipOptions) -> dict[str, str]:
    """The query of an upload; `masks` travel in its body. Raises OptionError for strange names."""
    _check_names(options, ClipOptions)
    values = {k: v for k, v in options.items() if v is not None and k != "masks"}
    if "box" in values:
        values["box"] = ",".join(f"{float(side):g}" for side in options["box"] or ())
    return {name: str(value) for name, value in values.items()}


def read_mask(masks: Ids | str | Path) -> bytes:
    """A palette PNG of object ids.

    Raises:
        InputError: another type or shape.
        OSError: there is no such file.
    """
    if isinstance(masks, (str, Path)):
        return Path(masks).read_bytes()
    if not isinstance(masks, np.ndarray) or masks.dtype != np.uint8 or masks.ndim != 2:
        shape = f"{getattr(masks, 'dtype', type(masks).__name__)} {list(np.shape(masks))}"
        raise InputError(f"masks is {shape}; expected object ids, uint8 [H, W]")
    return mask_png(masks, _PALETTE)


def _check_names(options: Mapping[str, Any], kind: type) -> None:
    known = sorted(kind.__annotations__)
    for name in options:
        if name not in known:
            hint = nearest(name, known) or f"expected one of {', '.join(known)}"
            raise OptionError(f"{name} is no option; {hint.strip()}")
