"""Milliseconds to decode a frame in this process and in a decoder process of its own.

    python -m benchmarks.decoding [--frames 200] [--size 640x480]

A drawn street as JPEG pictures and as H.264 access units. Both ways take every frame in turn, so
that noise on the machine falls on both alike. Prints a line of JSON per codec, and one about a
process: seconds until a fresh and a spare one can decode, and its resident memory.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import psutil
from PIL import Image

from resq_core.world import Street
from service.decoder import PacketDecoder
from service.decoder_process import DecoderPool, StreamDecoder
from service.pictures import Limits, Picture, decode_image

LIMITS = Limits()
QUALITY = 90


def jpegs(frames: list[Picture]) -> list[bytes]:
    """A JPEG per frame."""

    def one(frame: Picture) -> bytes:
        data = io.BytesIO()
        Image.fromarray(frame).save(data, "JPEG", quality=QUALITY)
        return data.getvalue()

    return [one(frame) for frame in frames]


def access_units(frames: list[Picture]) -> list[bytes]:
    """An H.264 access unit per frame, an IDR every 50."""
    context = av.CodecContext.create("libx264", "w")
    context.height, context.width = frames[0].shape[:2]
    context.pix_fmt, context.time_base, context.gop_size = "yuv420p", Fraction(1, 25), 50
    context.options = {"tune": "zerolatency", "x264-params": "repeat-headers=1"}
    units = []
    for index, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image)
        frame.pts = index
        units += [bytes(packet) for packet in context.encode(frame)]
    return units


def compare(name: str, data: list[bytes], here: Callable[[bytes, int], object]) -> None:
    """Print the percentiles of both ways."""
    pool = DecoderPool(0, 10.0, 1 << 30)
    there = StreamDecoder(pool, "image" if name == "jpeg" else "h264", LIMITS)
    there.open()
    spent: dict[str, list[float]] = {"here": [], "process": []}
    ways: dict[str, Callable[[bytes, int], object]] = {"here": here, "process": there.decode}
    for seq, one in enumerate(data):
        for way, decode in ways.items():
            start = time.perf_counter()
            decode(one, seq)
            spent[way].append(1000 * (time.perf_counter() - start))
    pool.close()
    line: dict[str, object] = {"codec": name, "bytes": round(float(np.mean([*map(len, data)])))}
    for way, times in spent.items():
        p50, p95, p99 = np.percentile(times[5:], (50, 95, 99))
        line[way] = {"p50_ms": round(p50, 3), "p95_ms": round(p95, 3), "p99_ms": round(p99, 3)}
    print(json.dumps(line))


def start_up() -> None:
    """Print what a process costs."""
    pool = DecoderPool(1, 10.0, 1 << 30)
    seconds = {}
    for name in ("fresh", "spare"):
        stream = StreamDecoder(pool, "h264", LIMITS)
        start = time.perf_counter()
        stream.open()
        seconds[name] = round(time.perf_counter() - start, 4)
        time.sleep(3)  # the spare that took its place gets warm
    resident = psutil.Process(psutil.Process().children()[0].pid).memory_info().rss
    pool.close()
    print(json.dumps({"open_seconds": seconds, "resident_mib": resident >> 20}))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--size", default="640x480")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    street = Street(size=(height, width))
    frames = [street.frame(t).image for t in range(given.frames)]
    compare("jpeg", jpegs(frames), lambda data, _: decode_image(data, LIMITS))
    compare("h264", access_units(frames), PacketDecoder("h264", LIMITS).decode)
    start_up()


if __name__ == "__main__":
    main()
