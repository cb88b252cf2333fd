"""Which frames run, what is scored, what is left out, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resq_core.errors import InputError, OptionError
from resq_core.evaluation import (
    Answer,
    DataSet,
    EvaluationState,
    Evaluator,
    LabelledClip,
    ObjectScore,
    PoseScore,
    Row,
    SegmentationScore,
    region_similarity,
)
from resq_core.evaluation.datasets import Joints, ObjectMasks, Protocol
from resq_core.evaluation.plans import plan
from resq_core.tasks import Box, Pose

WORDS = ("dark", "bright")
SCORE = partial(SegmentationScore, WORDS, 9)
NOTHING = EvaluationState(None, {})


def frames(values: str) -> list[np.ndarray]:
    """One even picture per letter, d or b."""
    return [np.full((2, 3, 3), 255 * (v == "b"), np.uint8) for v in values]


def labels(values: str) -> dict[int, np.ndarray]:
    """A label of the class for d and b; none for a dot."""
    return {i: np.full((2, 3), v == "b", np.uint8) for i, v in enumerate(values) if v != "."}


def clip(pictures: str, truth: str | None = None, name: str = "clip") -> LabelledClip:
    return LabelledClip(name, frames(pictures), labels(truth or pictures))


def data(
    protocol: Protocol, *clips: LabelledClip, splits: dict[str, list[str]] | None = None
) -> DataSet:
    whole = {"val": [clip.name for clip in clips]}
    return DataSet("drawn", "val", "segmentation", protocol, clips, splits or whole)


class Holding:
    """A row that repeats its keyframe's output, 8 bits there and 2 elsewhere; notes what it ran."""

    def __init__(self, period: int, alone: bool = False) -> None:
        self.log: list[str] = []
        self._period = period
        self.row = Row("hold", self._open, alone)

    def _open(self, start: object) -> Callable[[np.ndarray], Answer]:
        index, held = -1, np.zeros(0)
        self.log.append("|")

        def answer(picture: np.ndarray) -> Answer:
            nonlocal index, held
            index += 1
            anchor = index % self._period == 0
            if anchor:
                held = (picture[..., 0] > 127).astype(np.uint8)
            self.log.append("b" if picture[0, 0, 0] else "d")
            bits = 8 if anchor else 2
            return Answer(held, 100 * bits, bits, bits, anchor)

        return answer


def evaluated(source: DataSet, row: Row, period: int, phases: int = 1) -> dict[str, Any]:
    evaluator = Evaluator(source, [row], SCORE, period, range(phases), EvaluationState(None, {}))
    told: list[int] = []
    evaluator.run(lambda _row, done: told.append(done))
    assert sum(told) == evaluator.frames(row.name)
    return evaluator.result()


def test_every_frame_runs_in_sequences_of_t() -> None:
    hold = Holding(3)
    row = evaluated(data(Protocol.EVERY_FRAME, clip("dbbdbdb")), hold.row, 3)["rows"]["hold"]
    assert "".join(hold.log) == "|dbb|dbd|b"
    assert (row["frames"], row["anchors"]) == (7, 3)
    # held: ddddddb against dbbdbdb
    assert row["pixel_accuracy"] == pytest.approx(4 / 7)
    assert row["iou"] == pytest.approx({"dark": 3 / 6, "bright": 1 / 4})
    assert row["by_distance"] == [1, 0, pytest.approx((1 / 2 + 0) / 2)]
    assert row["mean_bits"] == pytest.approx((3 * 8 + 4 * 2) / 7)
    assert (row["residual_bits"], row["policy_bops"]) == (2, row["mean_bits"])


def test_phases_move_where_sequences_begin() -> None:
    hold = Holding(3)
    evaluated(data(Protocol.EVERY_FRAME, clip("dbbdb")), hold.row, 3, phases=3)
    assert "".join(hold.log) == "|dbb|db|d|bbd|b|db|bdb"
    assert [list(run.frames) for run in plan(clip("d" * 7), Protocol.EVERY_FRAME, 2, (5,))] == [
        [0, 1],
        [2, 3],
        [4],
        [5, 6],
    ]
    with pytest.raises(OptionError, match="phases are for clips whose every frame"):
        plan(clip("dbd"), Protocol.SPARSE, 1, (1,))


def test_a_sparse_label_is_scored_at_every_position_of_a_sequence() -> None:
    """The label at frame 3: keyframes at 3, 2 and 1, and nothing else is scored or counted."""
    hold = Holding(3)
    source = data(Protocol.SPARSE, clip("dbdbd", "...b."))
    row = evaluated(source, hold.row, 3)["rows"]["hold"]
    assert "".join(hold.log) == "|b|db|bdb"
    assert row["by_distance"] == [1, 0, 1]
    assert row["miou_over_distances"] == pytest.approx(2 / 3)
    assert row["iou"] == {"dark": 0, "bright": pytest.approx(2 / 3)}
    assert (row["frames"], row["anchors"]) == (3, 1)
    assert row["mean_bits"] == pytest.approx((8 + 2 + 2) / 3)


def test_where_frames_stand_alone_a_sparse_label_needs_one() -> None:
    alone = Holding(1, alone=True)
    row = evaluated(data(Protocol.SPARSE, clip("dbdbd", "...b.")), alone.row, 3)["rows"]["hold"]
    assert "".join(alone.log) == "|b"
    assert row["by_distance"] == [1]


def test_a_clip_that_cannot_be_used_costs_itself_in_every_row() -> None:
    class Broken(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            if index == 2:
                raise InputError("00002.png cannot be read")
            return super().__getitem__(index)

    good, strange = clip("dbdb", name="good"), clip("dbdb", name="strange")
    strange.labels[1][:] = 5  # type: ignore[index]
    broken = LabelledClip("broken", Broken(frames("dbdb")), labels("dbdb"))
    source = data(Protocol.EVERY_FRAME, broken, good, clip("d", name="short"), strange)
    rows = [Holding(2).row, Row("other", Holding(2).row.open)]
    evaluator = Evaluator(source, rows, SCORE, 2, (0,), EvaluationState(None, {}))
    evaluator.run()
    result = evaluator.result()
    assert result["clips"] == 1
    assert {found["clip"]: found["reason"] for found in result["skipped"]} == {
        "broken": "00002.png cannot be read",
        "short": "short has 1 frames; expected at least T = 2",
        "strange": "the label holds 5; the classes are 0 to 1",
    }
    assert result["rows"]["hold"]["frames"] == result["rows"]["other"]["frames"] == 4
    nothing = data(Protocol.EVERY_FRAME, clip("d", name="short"))
    evaluator = Evaluator(nothing, rows, SCORE, 2, (0,), NOTHING)
    with pytest.raises(InputError, match="no clip of split val can be scored: short has 1 frames"):
        evaluator.result()


def test_sparse_labels_too_early_for_the_period() -> None:
    source = data(Protocol.SPARSE, clip("dbdb", ".b..", name="early"), clip("dbdb", "...b"))
    result = evaluated(source, Holding(3).row, 3)
    reason = "early has 1 frames before its label; expected at least T - 1 = 2"
    assert result["skipped"] == [{"clip": "early", "reason": reason}]


def test_scores_are_means_over_splits() -> None:
    clips = [clip("dbdb", name="a"), clip("dbbb", "dbdd", name="b"), clip("bb", "dd", name="c")]
    splits = {"1": ["a", "b"], "2": ["a"]}
    source = data(Protocol.EVERY_FRAME, *clips, splits=splits)
    alone = Row("float", Holding(1).row.open, alone=True)
    result = evaluated(source, alone, 1)
    each = [result["splits"][split]["float"]["pixel_accuracy"] for split in ("1", "2")]
    assert each == [6 / 8, 1]
    assert result["rows"]["float"]["pixel_accuracy"] == pytest.approx(sum(each) / 2)
    assert result["rows"]["float"]["iou"]["dark"] == pytest.approx((3 / 5 + 1) / 2)
    assert result["rows"]["float"]["by_distance"] == [pytest.approx((0.6 + 0.6 + 2) / 4)]


def test_objects_are_scored_as_the_benchmark_does() -> None:
    """First and last frame left out, object by object, statistics by clip and then their mean."""
    generator = np.random.default_rng(0)

    def ids(shape: tuple[int, ...]) -> np.ndarray:
        return generator.integers(0, 3, shape, dtype=np.uint8)

    truth, found = ids((7, 9, 12)), ids((7, 9, 12))
    one = LabelledClip(
        "one",
        frames("d" * 7),
        {i: ObjectMasks(label, (1, 2)) for i, label in enumerate(truth)},
        lambda index: index,
    )
    two = LabelledClip("two", frames("ddd"), {i: ObjectMasks(truth[i], (2,)) for i in range(3)})
    source = DataSet.of("drawn", "val", "vos", Protocol.WHOLE_CLIP, [one, two])

    def open_row(start: Any) -> Callable[[np.ndarray], Answer]:
        answers = iter(found)
        return lambda _: Answer(next(answers), 10, 0, 4, is_anchor=False)

    evaluator = Evaluator(source, [Row("x", open_row)], ObjectScore, 3, (0,), NOTHING)
    evaluator.run()
    row = evaluator.result()["rows"]["x"]
    series = [
        [region_similarity(found[i] == k, truth[i] == k) for i in frames_of]
        for k, frames_of in ((1, range(1, 6)), (2, range(1, 6)), (2, range(1, 2)))
    ]
    assert row["objects"] == 3
    assert row["J"]["mean"] == pytest.approx(np.mean([np.mean(own) for own in series]))
    assert row["JF"] == pytest.approx((row["J"]["mean"] + row["F"]["mean"]) / 2)
    assert row["frames"] == 10  # all of them cost


def test_poses_are_scored_where_joints_are_labelled() -> None:
    def pose(*points: tuple[float, float]) -> Pose:
        return Pose(np.array([(x, y, 1) for x, y in points], np.float32), Box(0, 0, 9, 9))

    score = PoseScore(("a", "b", "c"))
    label = np.array([(0.0, 0), (10, 0), (0, 5)])
    score.add(pose((2, 0), (13, 0), (0, 5)), Joints(label, np.array([True, True, True])), 0)
    score.add(pose((9, 9), (9, 0), (9, 9)), Joints(label, np.array([False, True, True])), 1)
    score.add(pose((9, 9), (9, 0), (9, 9)), Joints(label, np.array([False, False, True])), 1)
    again = PoseScore(("a", "b", "c"))
    again.merge(score.record())
    for own in (score, again):
        means = own.means()
        assert means["per_joint"] == {"a": 1, "b": 0.5, "c": 0.5}
        assert means["pck"] == pytest.approx(2 / 3)
        assert means["by_distance"] == [pytest.approx(2 / 3), 0.5]
        assert (means["joints_not_labelled"], means["frames_without_person"]) == (3, 1)


@pytest.mark.parametrize("after", [1, 3, 6])
def test_an_interrupted_evaluation_goes_on_and_gives_the_same(after: int, tmp_path: Path) -> None:
    source = data(
        Protocol.EVERY_FRAME, clip("dbbd", name="a"), clip("bbdd", name="b"), clip("db", name="c")
    )

    def run(state: EvaluationState, stop: int | None = None) -> tuple[dict[str, Any], int]:
        ran = 0

        def count(open_row: Any) -> Any:
            def opened(start: Any) -> Any:
                nonlocal ran
                ran += 1
                if ran == stop:
                    raise KeyboardInterrupt
                return open_row(start)

            return opened

        rows = [Row("x", count(Holding(2).row.open)), Row("y", count(Holding(1).row.open))]
        evaluator = Evaluator(source, rows, SCORE, 2, (0,), state)
        evaluator.run()
        return evaluator.result(), ran

    whole, all_runs = run(EvaluationState(None, {}))
    path = tmp_path / "state"
    with EvaluationState(path, {"period": 2}) as state, pytest.raises(KeyboardInterrupt):
        run(state, after)
    with path.open("ab") as file:
        file.write(b'{"row": "y", "clip": "c", "rec')  # killed while it wrote
    with EvaluationState(path, {"period": 2}) as state:
        result, ran = run(state)
    assert result == whole
    assert ran == all_runs - 2 * ((after - 1) // 2)
    with EvaluationState(path, {"period": 2}) as state:
        assert run(state) == (whole, 0)


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with EvaluationState(path, {"period": 2, "model": "street", "threshold": None}) as state:
        state.add("x", "clip", {})
    before = path.read_bytes()
    with pytest.raises(OptionError, match="another evaluation: period is 2 there and 3 here; give"):
        EvaluationState(path, {"period": 3, "model": "street", "threshold": None})
    for content, words in [
        (b"words\n", "holds something else"),
        (b"[1]\n", "holds something else"),
        (before + b"{}\n", "damaged at line 3; delete it"),
        (before + b"\xff\n", "damaged at line 3"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            EvaluationState(path, {"period": 2, "model": "street", "threshold": None})
        assert path.read_bytes() == content
    with pytest.raises(InputError, match="cannot be read"):
        EvaluationState(tmp_path, {})


@pytest.mark.parametrize(
    "record",
    [
        {},
        7,
        {"score": {"counts": [[[1]]]}, "costs": {}},
        {"score": {"counts": [[[-1, 0], [0, 0]]]}},
    ],
)
def test_records_that_are_damaged(record: Any, tmp_path: Path) -> None:
    with EvaluationState(tmp_path / "state", {}) as state:
        state.add("hold", "clip", record)
        source = data(Protocol.EVERY_FRAME, clip("dbd"))
        evaluator = Evaluator(source, [Holding(1).row], SCORE, 1, (0,), state)
        evaluator.run()
        with pytest.raises(InputError, match=r"of clip in row hold is damaged: .*delete it"):
            evaluator.result()
