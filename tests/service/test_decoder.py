from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from service.decoder import PacketDecoder, is_idr
from service.pictures import DecodeError, Limits, decode_image, decode_rgb

LIMITS = Limits()


def picture(height: int = 48, width: int = 64, form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()).save(out, form)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 9) + b"IDAT" + bytes(13)


def packets(codec: str, count: int = 6) -> list[bytes]:
    name = {"h264": "libx264", "vp8": "libvpx"}[codec]
    context = av.CodecContext.create(name, "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base = Fraction(1, 25)
    context.gop_size = 4
    if codec == "h264":
        context.options = {"tune": "zerolatency", "x264-params": "repeat-headers=1"}
    out = []
    for i in range(count):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 20 * i, np.uint8))
        frame.pts = i
        out += [bytes(p) for p in context.encode(frame)]
    return out + [bytes(p) for p in context.encode(None)]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_read(form: str) -> None:
    image = decode_image(picture(form=form), LIMITS)
    assert image.shape == (48, 64, 3)
    assert image[0, -1, 0] > 240 > 10 > image[0, 0, 0]


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "bad_frame", "empty"),
        (b"not a picture", "bad_frame", "JPEG"),
        (picture()[:200], "bad_frame", "JPEG"),
        (picture(1, 1, "PNG"), "too_small", "1x1"),
        (png_header(20_000, 20_000), "too_big", "pixels"),
        (png_header(8000, 8000), "too_big", "8000x8000"),
        (picture(48, 64, "GIF"), "bad_frame", "JPEG"),
    ],
)
def test_bad_pictures_say_why(data: bytes, reason: str, words: str) -> None:
    with pytest.raises(DecodeError, match=words) as caught:
        decode_image(data, LIMITS)
    assert caught.value.reason == reason


def test_bytes_are_limited() -> None:
    with pytest.raises(DecodeError, match="at most 10"):
        decode_image(picture(), Limits(max_bytes=10))


def test_raw_rgb_must_have_its_shape() -> None:
    data = np.arange(16 * 20 * 3, dtype=np.uint8).tobytes()
    assert decode_rgb(data, [16, 20], LIMITS).shape == (16, 20, 3)
    for shape in (None, [16], [16, 21], [16.0, 20], [True, 960], "ab"):
        with pytest.raises(DecodeError):
            decode_rgb(data, shape, LIMITS)


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_each_access_unit_gives_its_own_frame_at_once(codec: str) -> None:
    decoder = PacketDecoder(codec, LIMITS)  # type: ignore[arg-type]
    for i, data in enumerate(packets(codec)):
        (frame,) = decoder.decode(data, 100 + i)
        assert frame.seq == 100 + i
        assert abs(float(frame.image.mean()) - (20 + 20 * i)) < 4
    assert decoder.flush() == []


def test_a_damaged_packet_costs_itself_and_what_depends_on_it() -> None:
    decoder = PacketDecoder("h264", LIMITS)
    reasons = []
    for i, data in enumerate(packets("h264", 8)):
        try:
            (frame,) = decoder.decode(b"\x00\x00\x01\x65junk" if i == 1 else data, i)
            reasons.append("frame")
            assert frame.seq == i
        except DecodeError as error:
            reasons.append(error.reason)
    waiting = "waiting_for_idr"
    assert reasons == ["frame", "bad_frame", waiting, waiting, "frame", "frame", "frame", "frame"]


def test_a_stream_is_joined_at_an_idr() -> None:
    units = packets("h264")
    assert [is_idr(u, "h264") for u in units] == [True, False, False, False, True, False]
    with pytest.raises(DecodeError) as caught:
        PacketDecoder("h264", LIMITS).decode(units[1], 0)
    assert caught.value.reason == "waiting_for_idr"


def test_codec_pictures_have_limits_too() -> None:
    decoder = PacketDecoder("h264", Limits(max_pixels=1000))
    with pytest.raises(DecodeError):
        decoder.decode(packets("h264")[0], 0)
