"""Small files and access units of every kind that the service decodes."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.service.conftest import colour

__all__ = ["CLIPS", "clip", "pictures", "samples", "units"]

_ENCODERS = {
    "h264": ("libx264", {"preset": "ultrafast"}),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:pools=none"}),
    "vp8": ("libvpx", {"deadline": "realtime"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4": ("mpeg4", {}),
    "mjpeg": ("mjpeg", {}),
}
CLIPS = [
    *(("mp4", codec) for codec in ("h264", "hevc", "mpeg4")),
    *(("mov", codec) for codec in ("h264", "mjpeg")),
    *(("matroska", codec) for codec in _ENCODERS),
    *(("webm", codec) for codec in ("vp8", "vp9")),
    *(("avi", codec) for codec in ("h264", "mpeg4", "mjpeg")),
    *(("mpegts", codec) for codec in ("h264", "hevc")),
]
"""Every container with codecs that it is used with."""


def samples() -> list[bytes]:
    """AV1 in MP4, Matroska and WebM, six frames each. As files: its encoder runs its threads at
    real-time priority where it may, and two cores then have time for nothing else."""
    return [path.read_bytes() for path in sorted((Path(__file__).parent / "samples").iterdir())]


def clip(container: str, codec: str, count: int = 8) -> bytes:
    """A video of 64x64."""
    encoder, options = _ENCODERS[codec]
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(encoder, rate=25, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size, stream.time_base = 4, Fraction(1, 25)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(colour(i // 4, (64, 64)), i, 1))
            frame.pts = i
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def pictures() -> list[bytes]:
    """JPEG, baseline and progressive; PNG, RGB and palette; WebP, lossy and lossless."""
    image = Image.fromarray(colour(0, (64, 64)))
    found = []
    for form, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "exif": b"Exif\0\0" + bytes(40)}),
        ("PNG", {}),
        ("WEBP", {"lossless": False}),
        ("WEBP", {"lossless": True}),
    ):
        out = io.BytesIO()
        image.save(out, form, **options)
        found.append(out.getvalue())
    out = io.BytesIO()
    image.convert("P").save(out, "PNG")
    return [*found, out.getvalue()]


def units(codec: str, count: int = 12) -> list[bytes]:
    """Access units of 64x64, an IDR every four."""
    encoder, options = _ENCODERS[codec]
    context = av.CodecContext.create(encoder, "w")
    context.width = context.height = 64
    context.pix_fmt, context.time_base, context.gop_size = "yuv420p", Fraction(1, 25), 4
    context.options = options | ({"tune": "zerolatency"} if codec == "h264" else {})
    found: list[bytes] = []
    for i in range(count):
        frame = av.VideoFrame.from_ndarray(np.roll(colour(i // 4, (64, 64)), i, 1))
        frame.pts = i
        found += [bytes(packet) for packet in context.encode(frame)]
    return found + [bytes(packet) for packet in context.encode(None)]
