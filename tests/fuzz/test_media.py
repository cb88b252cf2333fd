"""Damaged media through real decoder processes: an expected error or frames, in time, no growth."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from random import Random

import psutil
import pytest

from service.decoder import ClipError, ClipLimits
from service.decoder_process import DecoderPool, StreamDecoder
from service.pictures import DecodeError, Limits
from tests.fuzz.media import CLIPS, clip, pictures, samples, units
from tests.fuzz.mutation import mutated

FILES = int(os.environ.get("FUZZ_FILES", "90"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
SECONDS, MEMORY = 20.0, 1 << 30
LIMITS = Limits(max_bytes=1 << 20, max_pixels=1 << 20)
MAX_GROWTH = 48 << 20  # bytes, of this process or of a decoder that goes on for long
_PER_DECODER = 60  # damaged pictures, or runs of access units, that one process gets

Outcomes = Counter[str]


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(2, SECONDS, MEMORY)
    made.fill()
    yield made
    made.close()


@cache
def material() -> list[bytes]:
    """Whole clips, of every container."""
    return [clip(*kind) for kind in CLIPS] + samples()


def damaged_clip(seed: int, pool: DecoderPool, folder: Path) -> Outcomes:
    """Open a damaged clip and read it to its end."""
    rng = Random(seed)
    path = folder / f"{seed}.bin"
    path.write_bytes(mutated(rng.choice(material()), rng, rng.choice(material())))
    frames = 0
    try:
        with pool.open_clip(path, ClipLimits(1 << 20, 60.0, 500, LIMITS)) as video:
            for frame in video:
                assert frame.image.ndim == 3
                frames += 1
    except ClipError as error:
        return Counter([f"clip: {reason(str(error))}"])
    finally:
        path.unlink()
    assert frames > 0, "a clip without a frame is an error"
    return Counter(["clip: frames"])


def reason(text: str) -> str:
    """`decoder_…` where a process was lost; else that the clip was refused."""
    return text.split(":")[0] if text.startswith("decoder_") else "refused"


def damaged_stream(seed: int, pool: DecoderPool, kind: str) -> Outcomes:
    """Sixty damaged pictures, or as many runs of access units, through one process."""
    rng, outcomes = Random(seed), Outcomes()
    whole = pictures() if kind == "image" else units(kind)
    decoder = StreamDecoder(pool, kind, LIMITS)  # type: ignore[arg-type]
    decoder.open()
    try:
        assert decoder._process is not None
        process, level, seq = psutil.Process(decoder._process.pid), None, 0
        for turn in range(_PER_DECODER):
            run = [rng.choice(whole)] if kind == "image" else whole[rng.randrange(len(whole)) :]
            for data in run:
                bad = kind == "image" or rng.random() < 0.4
                outcomes += one(
                    decoder, mutated(data, rng, rng.choice(whole)) if bad else data, seq
                )
                seq += 1
            if turn == _PER_DECODER // 3:
                level = process.memory_info().rss
            outcomes[f"{kind}: damaged"] += 1
        assert level is not None
        assert process.memory_info().rss - level < MAX_GROWTH
    finally:
        decoder.close()
    return outcomes


def one(decoder: StreamDecoder, data: bytes, seq: int) -> Outcomes:
    """Decode a picture or an access unit."""
    try:
        for picture in decoder.decode(data, seq):
            assert picture.image.ndim == 3
    except DecodeError as error:
        return Counter([error.reason])
    return Counter(["decoded"])


def test_damaged_media_cost_themselves(pool: DecoderPool, tmp_path: Path) -> None:
    """Seven files in ten are clips; a lost process (`DecoderLost`) of the others is a failure."""
    clips = FILES * 7 // 10
    runs = max(1, -(-(FILES - clips) // (3 * _PER_DECODER)))
    material()
    jobs: list[Callable[[], Outcomes]] = [
        lambda n=n: damaged_clip(SEED + n, pool, tmp_path)  # type: ignore[misc]
        for n in range(clips)
    ]
    jobs += [
        lambda n=n, kind=kind: damaged_stream(SEED + n, pool, kind)  # type: ignore[misc]
        for kind in ("image", "h264", "vp8")
        for n in range(runs)
    ]
    process, outcomes, level = psutil.Process(), Outcomes(), None
    with ThreadPoolExecutor(2) as threads:
        for done, found in enumerate(threads.map(lambda job: job(), jobs)):
            outcomes += found
            if done == len(jobs) // 10:
                level = process.memory_info().rss
    assert level is not None
    grown = process.memory_info().rss - level
    print(f"{clips} clips and {runs * 3 * _PER_DECODER} others: {dict(outcomes.most_common())}")
    print(f"memory grew by {grown / 1e6:.1f} MB")
    assert grown < MAX_GROWTH
    assert not list(tmp_path.iterdir())
    assert pool.busy == 0
    lost = {name: count for name, count in outcomes.items() if "decoder_" in name}
    assert not lost, f"decoders were lost: {lost}"
    assert outcomes["clip: frames"] > clips / 20
    assert outcomes["clip: refused"] > clips / 20
    assert outcomes["decoded"] > 0
    assert outcomes["bad_frame"] > 0
