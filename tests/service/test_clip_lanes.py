"""A clip on several streams of one engine gives what it gives on one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resq_core import QuantizedModel
from service import clip_lanes
from service.clip_work import ClipWork
from service.decoder import Clip, ClipError, ClipFrame, open_clip
from service.encoder import VideoWriter
from service.engine import FrameError, StepOutput, StreamSpec
from tests.service.conftest import SlowEngine, SlowStream, colour

SPEC = StreamSpec("tiny", period=3, threshold=0.2, reference="keyframe")
FRAMES = 20


class Wide(SlowEngine):
    """An engine with places for three streams of a clip."""

    @property
    def clips(self) -> int:
        return 3


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10, (48, 64)) as video:
        for i in range(FRAMES):
            video.write(colour(i // 2))
    return path


def done(
    engine: SlowEngine, clip: Path, folder: Path, spec: StreamSpec = SPEC
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Lines and report, without what depends on the clock."""
    work = ClipWork(engine, spec, open_clip(clip), folder)
    while work.advance():
        pass
    report = work.finish()
    work.close()
    lines = [json.loads(line) for line in (folder / "results.ndjson").read_text().splitlines()]
    assert (folder / "annotated.mp4").stat().st_size > 0
    for line in lines:
        assert line.pop("infer_ms", 0) >= 0
    return lines, {k: v for k, v in report.items() if k not in ("seconds", "fps")}


def test_results_are_those_of_one_stream_in_the_same_order(
    quantized: QuantizedModel, clip: Path, tmp_path: Path
) -> None:
    lines, report = done(SlowEngine(quantized), clip, tmp_path / "one")
    wide = Wide(quantized)
    found, sums = done(wide, clip, tmp_path / "three")
    assert found == lines
    assert sums == pytest.approx(report)
    assert [line["anchor_reason"] for line in found if line["is_anchor"]] == [
        "first_frame",
        *["period"] * 6,
    ]
    assert [len(stream.starts) for stream in wide.opened] == [8, 6, 6]
    assert wide.held == 0


def test_streams_are_worked_on_at_once(
    quantized: QuantizedModel, clip: Path, tmp_path: Path
) -> None:
    wide = Wide(quantized, seconds=0.2)
    done(wide, clip, tmp_path / "three")
    starts = [stream.starts for stream in wide.opened]
    assert starts[1][0] < starts[0][2], "the second began before the first had done its period"
    assert starts[2][0] < starts[1][2]


def test_a_pose_has_one_stream(
    quantized: QuantizedModel, quantized_pose: QuantizedModel, clip: Path, tmp_path: Path
) -> None:
    wide = Wide(quantized, pose=quantized_pose)
    done(wide, clip, tmp_path / "one", StreamSpec("marker"))
    assert len(wide.opened) == 1


def test_tracking_has_its_anchors_at_the_same_frames(
    quantized: QuantizedModel, clip: Path, tmp_path: Path
) -> None:
    spec = replace(SPEC, reference="tracking")
    lines, _ = done(SlowEngine(quantized), clip, tmp_path / "one", spec)
    found, _ = done(Wide(quantized), clip, tmp_path / "three", spec)
    for line, other in zip(found, lines, strict=True):
        for name in ("index", "is_anchor", "anchor_reason"):
            assert line[name] == other[name]
        assert line["mean_bits"] == pytest.approx(other["mean_bits"], abs=0.5)


def test_large_pictures_do_not_pile_up(
    quantized: QuantizedModel, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_lanes, "_MOST_BYTES", 4 * 48 * 64 * 3)
    wide = Wide(quantized)
    work = ClipWork(wide, SPEC, open_clip(clip), tmp_path / "three")
    while work.fetch() and work.frames < FRAMES:
        assert len(work._lanes) <= 4
        work.advance()
    assert work.frames == FRAMES
    work.close()


def test_a_frame_that_fails_costs_itself(
    quantized: QuantizedModel, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = SlowStream.step

    def failing(self: SlowStream, *given: Any) -> StepOutput:
        if self is wide.opened[1] and self.totals.frames == 2:
            monkeypatch.setattr(SlowStream, "step", step)
            raise FrameError("of a test")
        return step(self, *given)

    wide = Wide(quantized)
    monkeypatch.setattr(SlowStream, "step", failing)
    lines, report = done(wide, clip, tmp_path / "three")
    assert [line["index"] for line in lines] == list(range(FRAMES))
    assert [line["index"] for line in lines if "drop" in line] == [5]
    assert (report["frames"], report["results"], report["drops"]) == (FRAMES, FRAMES - 1, 1)


def test_what_came_before_a_break_in_the_clip_is_done(
    quantized: QuantizedModel, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def frames(self: Clip) -> Iterator[ClipFrame]:
        yield from list(whole(self))[:11]
        raise ClipError("it breaks off")

    whole = Clip.__iter__
    monkeypatch.setattr(Clip, "__iter__", frames)
    work = ClipWork(Wide(quantized), SPEC, open_clip(clip), tmp_path / "three")

    def advance_to_the_end() -> None:
        while work.advance():
            pass

    with pytest.raises(ClipError, match="breaks off"):
        advance_to_the_end()
    work.close()
    assert work.results == 11
    assert len((tmp_path / "three" / "results.ndjson").read_text().splitlines()) == 11


def test_a_job_that_ends_early_waits_for_no_frame_that_was_not_begun(
    quantized: QuantizedModel, clip: Path, tmp_path: Path
) -> None:
    wide = Wide(quantized, seconds=0.5)
    work = ClipWork(wide, SPEC, open_clip(clip), tmp_path / "three")
    while len(work._lanes) < 9:
        work.fetch()
    work.close()
    assert sum(len(stream.starts) for stream in wide.opened) < 9, "three are begun at once"
    assert wide.held == 0
