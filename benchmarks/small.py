"""The street model with a small input, where many frames matter and their content does not."""

from __future__ import annotations

import io
import shutil
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from resq_core import zoo
from resq_core.world import Street
from service.encoder import VideoWriter
from service.messages import InputKind
from service.pictures import Picture

__all__ = ["MODEL", "SIZE", "access_units", "bodies", "clip", "drawn", "jpegs", "shelve"]

MODEL = "small-street"
SIZE = (96, 128)
_IDR_EVERY = 8


def shelve(folder: Path) -> None:
    """Put the model into a folder of models (RESQ_MODELS_DIR)."""
    place = folder / MODEL
    place.mkdir(parents=True)
    shutil.copy(zoo.PACKAGED.path("street"), place / f"{MODEL}.resq")
    card = zoo.card("street").model_copy(update={"name": MODEL, "input_size": SIZE})
    (place / "card.json").write_text(card.model_dump_json(), "utf-8")


@cache
def drawn(count: int, size: tuple[int, int] = SIZE) -> tuple[Picture, ...]:
    """A stretch of the drawn street, uint8 [H, W, 3] each."""
    street = Street(size=size)
    return tuple(street.frame(t).image for t in range(count))


def jpegs(frames: tuple[Picture, ...], quality: int = 90) -> list[bytes]:
    """A JPEG per frame."""

    def one(frame: Picture) -> bytes:
        data = io.BytesIO()
        Image.fromarray(frame).save(data, "JPEG", quality=quality)
        return data.getvalue()

    return [one(frame) for frame in frames]


def access_units(frames: tuple[Picture, ...], codec: str = "h264") -> list[bytes]:
    """An H.264 or VP8 access unit per frame, an IDR every 8."""
    library = {"h264": "libx264", "vp8": "libvpx"}[codec]
    context = av.CodecContext.create(library, "w")
    context.height, context.width = frames[0].shape[:2]
    context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
    context.gop_size = _IDR_EVERY
    context.options = {
        "h264": {"tune": "zerolatency", "x264-params": f"repeat-headers=1:keyint={_IDR_EVERY}"},
        "vp8": {"deadline": "realtime", "lag-in-frames": "0", "kf-max-dist": str(_IDR_EVERY)},
    }[codec]
    units = []
    for index, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image)
        frame.pts = index
        units += [bytes(packet) for packet in context.encode(frame)]
    return units


def bodies(kind: InputKind, count: int = 16) -> list[tuple[bytes, dict[str, Any]]]:
    """Frames of a stream of this input: the body and the meta of each."""
    pictures = drawn(count)
    if kind == "image":
        return [(body, {}) for body in jpegs(pictures)]
    if kind == "rgb":
        return [(p.tobytes(), {"shape": list(p.shape[:2])}) for p in pictures]
    return [(body, {}) for body in access_units(pictures, kind)]


def clip(count: int, size: tuple[int, int] = SIZE) -> bytes:
    """An MP4 of so many frames at 10 fps, a number in each: its grey level at the top left."""
    target = io.BytesIO()
    with VideoWriter(target, 10, size) as video:
        for index, image in enumerate(drawn(min(count, 24), size) * -(-count // 24)):
            if index == count:
                break
            marked = np.array(image)
            marked[:8, :8] = index % 256
            video.write(marked)
    return target.getvalue()
