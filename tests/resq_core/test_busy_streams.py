"""Pictures that change everywhere: keyframes where a residual frame or a refresh would not pay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import resq_core
from resq_core import QuantizedModel, errors
from resq_core.state import Backoff
from tests.resq_core.networks import Plain, moving_clip, seeded


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    q = resq_core.quantize(seeded(Plain), "W8A8->W8A{0,4,8}", period=8)
    q.calibrate([moving_clip(8, 1), moving_clip(8, 2)], also=["W8A8"], samples=8)
    return q


def noise(index: int) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    return torch.randn(moving_clip(1).shape, generator=generator)


def dotted(index: int) -> Tensor:
    """One pixel of three by three differs from frame to frame, and so does every window."""
    frame = noise(0)
    frame[:, :, 1::3, 1::3] = noise(index)[:, :, 1::3, 1::3]
    return frame


def test_pauses_double_up_to_the_most_and_end_when_a_try_pays() -> None:
    backoff, tries = Backoff(), []
    for time in range(40):
        if not backoff.waits():
            tries.append(time)
            backoff.note(paid=False, most=8)
    assert tries == [0, 2, 5, 10, 19, 28, 37]
    backoff.note(paid=True, most=8)
    assert not backoff.waits()
    backoff.note(paid=False, most=8)
    assert [backoff.waits(), backoff.waits()] == [True, False]


def test_busy_frames_are_followed_by_keyframes_until_the_picture_rests(
    model: QuantizedModel,
) -> None:
    stream = model.stream(max_active=0.8)
    results = [stream.step(dotted(i)) for i in range(8)]
    reasons = [result.reason for result in results]
    assert reasons == ["first_frame", None, *["busy"] * 6]
    assert all(result.active_fraction > 0.8 for result in results)
    assert stream.anchor_due
    still = dotted(7)
    rest = [stream.step(still).reason for _ in range(8)]
    assert rest == [*["busy"] * 4, *[None] * 4]


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_frame_like_one_that_was_busy_is_a_keyframe_at_once(backend: str) -> None:
    """A ninth of the input changes every third time: fewer than 0.8, yet every output does."""
    model = resq_core.quantize(seeded(Plain), "W8A8->W8A{0,4,8}", period=100, backend=backend)
    model.calibrate([moving_clip(8, 1), moving_clip(8, 2)], also=["W8A8"], samples=8)
    stream = model.stream(max_active=0.8)
    reasons = [stream.step(dotted(i // 3)).reason for i in range(54)]
    assert reasons[:3] == ["first_frame", None, None]
    assert reasons[3:6] == [None, None, None], "once, and no keyframe follows: the picture rests"
    later = [reasons[i : i + 3] for i in range(6, 54, 3)]
    at_once, tried = ["busy", None, None], [None, None, None]
    assert later[:6] == [at_once] * 6
    assert later[6:].count(tried) == 1, "tried again at times"
    assert later[6:].count(at_once) == 9


@pytest.mark.parametrize("reference", ["keyframe", "previous", "tracking"])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_frame_whose_input_has_changed_too_much_is_a_keyframe_at_once(
    backend: str, reference: str
) -> None:
    model = resq_core.quantize(seeded(Plain), "W8A8->W8A{0,4,8}", period=4, backend=backend)
    model.calibrate([moving_clip(8, 1), moving_clip(8, 2)], also=["W8A8"], samples=8)
    stream = model.stream(max_active=0.8, reference=reference)
    dense = model.with_precision("W8A8").stream()
    frames = [noise(0), noise(1), noise(1), noise(2), noise(3), *[noise(3)] * 5]
    reasons = []
    for frame in frames:
        result, plain = stream.step(frame), dense.step(frame)
        reasons.append(result.reason)
        if result.is_anchor:
            assert torch.equal(result.output, plain.output)
        if result.reason == "busy":
            assert result.bops.frame == plain.bops.frame, "nothing of what was there is used"
    assert reasons[:3] == ["first_frame", "busy", None], "once, and the next frame is tried"
    assert reasons[3:6] == ["busy", "busy", "busy"], "the second in a row, and one untried"
    assert reasons[6:] == [None, None, None, "period"]


def test_what_is_given_up_again_and_again_is_tried_less_and_less(model: QuantizedModel) -> None:
    stream = model.stream(max_active=0.8)
    tried = []
    for i in range(60):
        untried = stream.anchor_due
        assert stream.step(noise(i)).is_anchor
        if not untried:
            tried.append(i)
    assert tried == [1, 2, 4, 7, 12, 21, 38]


def test_only_the_clock_makes_keyframes_where_it_is_not_asked_for(model: QuantizedModel) -> None:
    stream = model.stream(period=4)
    assert [stream.step(noise(i)).is_anchor for i in range(6)] == [True, *[False] * 3, True, False]


def test_a_keyframe_that_differs_everywhere_is_computed_densely_from_then_on(
    model: QuantizedModel,
) -> None:
    """Refreshed keyframes count what differs; the outputs are a dense keyframe's either way."""
    stream, dense = model.stream(period=2), model.with_precision("W8A8").stream()
    shares = []
    for i in range(12):
        result, plain = stream.step(noise(i)), dense.step(noise(i))
        if result.is_anchor:
            assert torch.equal(result.output, plain.output)
            shares.append(result.bops.frame / plain.bops.frame)
    refreshed = [share < 1 for share in shares]
    assert refreshed[:1] == [False]
    assert sum(refreshed) < len(refreshed) - 1
    still = noise(99)
    for _ in range(60):
        last = stream.step(still, anchor="asked")
    assert last.bops.frame == 0


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_keyframe_whose_input_differs_too_much_is_dense_at_once(backend: str) -> None:
    model = resq_core.quantize(seeded(Plain), "W8A8->W8A{0,4,8}", period=1, backend=backend)
    model.calibrate([moving_clip(8, 1), moving_clip(8, 2)], also=["W8A8"], samples=8)
    stream, dense = model.stream(), model.with_precision("W8A8").stream()
    shares = []
    for frame in (noise(0), noise(1), noise(1), *[dotted(1)] * 3):
        result, plain = stream.step(frame), dense.step(frame)
        assert torch.equal(result.output, plain.output)
        shares.append(result.bops.frame / plain.bops.frame)
    assert shares[:3] == [1, 1, 1], "the first, one given up, and one untried"
    assert shares[3] == 1, "all differ again"
    assert shares[4:] == [1, 1], "two untried"
    assert stream.step(dotted(1)).bops.frame == 0
    few = stream.step(dotted(2)).bops.frame / plain.bops.frame
    assert 0 < few < 1, "a ninth of the input"


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "much"])
def test_a_share_out_of_range_is_refused(model: QuantizedModel, value: object) -> None:
    with pytest.raises(errors.OptionError, match="max_active"):
        model.stream(max_active=value)  # type: ignore[arg-type]


def test_it_is_saved_with_the_model(model: QuantizedModel, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model.with_options(model.options.but(max_active=0.7)).save(tmp_path / "m.resq")
    again = resq_core.load(tmp_path / "m.resq", seeded(Plain))
    assert again.options.max_active == 0.7
