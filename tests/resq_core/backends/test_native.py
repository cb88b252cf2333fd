"""The native executor against the reference, which defines what is right.

`RESQ_EXAMPLES=500` draws that many networks, others each time: a search by hand.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import resq_core
from resq_core import QuantizedModel
from resq_core.backends.extension import ISAS, load_extension, native_status
from resq_core.backends.native_executor import NativeExecutor, _NativeMemory
from resq_core.errors import BackendError
from resq_core.state import StreamState
from resq_core.stream import StepResult, Stream
from tests.resq_core.backends.drawn import (
    PAIRS,
    Course,
    Network,
    Tokens,
    assert_same,
    courses,
    frames_of,
    leaves,
    networks,
    on,
    places_rows,
    rounds_alike,
)
from tests.resq_core.networks import Everything, Plain, moving_clip, seeded

STATUS = native_status()
pytestmark = pytest.mark.skipif(
    STATUS.isa is None, reason=f"no native backend here: {STATUS.reason}"
)

EXAMPLES = os.environ.get("RESQ_EXAMPLES")
MILD = ("new", "move", "move", "new")
COURSE = Course(
    precision="W8A8->W8A{0,4,8}",
    reference="tracking",
    policy="relative",
    threshold=None,
    period=20,
    frames=("new", "move", "move", "still", "loud", "move", "dark", "new", "move", "move"),
    update=(6, 4, 0.02),
)


def drawn(default: int) -> settings:
    return settings(
        max_examples=int(EXAMPLES or default),
        derandomize=EXAMPLES is None,
        database=None,
        phases=[Phase.generate] if EXAMPLES is None else list(Phase),  # shrinking takes minutes
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def calibrated(network: Network, course: Course, grid: str, granularity: str) -> QuantizedModel:
    model = resq_core.quantize(
        network,
        course.precision,
        grid=grid,
        granularity=granularity,
        backend="reference",
        policy=course.policy,
        threshold=course.threshold,
    )
    clips = [frames_of(network.shapes, MILD)]
    model.calibrate(clips, samples=3, points=4, unsigned=course.unsigned)
    return model


def run_both(
    network: Network,
    course: Course,
    grid: str = "aligned",
    granularity: str = "channel",
    bit_map: bool = True,
) -> None:
    model = calibrated(network, course, grid, granularity)
    streams = [
        on(model, backend).stream(period=course.period, reference=course.reference)
        for backend in ("reference", "native")
    ]
    when, period, threshold = course.update
    for i, frame in enumerate(frames_of(network.shapes, course.frames)):
        if i == when:
            for stream in streams:
                stream.update(period=period, threshold=threshold)
        expected, got = (s.step(frame, bit_map=True, layers=True) for s in streams)
        assert_same(expected, got, bit_map)


def test_drawn_networks() -> None:
    """Where rounding may differ in the last bit, one network in five may meet a tie."""
    ran, tied = [0], [0]

    @given(
        networks(),
        courses(),
        st.sampled_from(["aligned", "free"]),
        st.sampled_from(["channel", "tensor"]),
    )
    @drawn(15)
    def draw(network: Network, course: Course, grid: str, granularity: str) -> None:
        note(repr(network))
        ran[0] += 1
        try:
            run_both(network, course, grid, granularity, bit_map=not places_rows(network))
        except AssertionError:
            if rounds_alike(network):
                raise
            tied[0] += 1

    draw()
    assert tied[0] <= max(1, ran[0] // 5)


def test_a_network_without_layers() -> None:
    run_both(Network([(1, 3, 9, 11)], [(nn.ReLU(), (0,))], [1]).eval(), COURSE)


def test_a_batch_norm_that_stands_alone() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8, affine=False).eval()
    nn.init.normal_(norm.running_mean, std=0.1)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    steps = [(nn.Conv2d(3, 8, 3, padding=1), (0,)), (norm, (1,)), (PAIRS["sum"], (1, 2))]
    run_both(Network([(2, 3, 16, 16)], steps, [3]).eval(), COURSE)


def test_bit_map_of_a_linear_layer_on_rows_with_places() -> None:
    torch.manual_seed(0)
    network = Network([(1, 3, 9, 11)], [(Tokens(3, 1, False, flat=False), (0,))], [1]).eval()
    run_both(network, COURSE)


@pytest.mark.parametrize("size", [(4, 2), (5, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_transposed_kernel_that_no_input_reaches(bias: bool, size: tuple[int, int]) -> None:
    """With as many columns as the padding takes away, some outputs are the bias alone."""
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 6, 1, stride=2, padding=1, bias=bias)
    run_both(Network([(1, 4, *size)], [(up, (0,)), (nn.ReLU(), (1,))], [2]).eval(), COURSE)


CLIPS = replace(COURSE, frames=("new", "move", "dark", "loud", "move", "still", "loud", "dark"))


@pytest.mark.parametrize("precision", ["W8A8->W8A8", "W8A8->W8A{4,8}", "W8A8->W4A{0,4,8}"])
@pytest.mark.parametrize("grid", ["free", "aligned"])
@pytest.mark.parametrize("seed", range(3))
def test_pixels_at_the_end_of_int8(seed: int, grid: str, precision: str) -> None:
    """What a saturated pixel still clips is counted in every frame, not only in the first."""
    torch.manual_seed(seed)
    steps = [(nn.Conv2d(*c, 3, padding=1), (i,)) for i, c in enumerate([(2, 4), (4, 4), (4, 4)])]
    network = Network([(1, 2, 16, 16)], steps, [3]).eval()
    run_both(network, replace(CLIPS, precision=precision), grid=grid)


@pytest.mark.parametrize("reference", ["tracking", "keyframe"])
def test_relu_behind_groups_on_the_free_grid(reference: str) -> None:
    torch.manual_seed(0)
    steps = [(nn.Conv2d(2, 4, 3, padding=1, groups=2), (0,)), (nn.ReLU(), (1,))]
    network = Network([(1, 2, 16, 16)], steps, [2]).eval()
    run_both(network, replace(CLIPS, precision="W8A8->W8A4", reference=reference), grid="free")


# ---- one result, whoever computes it


def record(result: StepResult) -> list[Tensor]:
    """Everything that a frame gave, as tensors to compare bit by bit."""
    assert result.layers is not None
    assert result.bit_map is not None
    reports = [
        [r.mean_bits, r.active_fraction, r.clipped_fraction, r.input_active_fraction]
        for r in result.layers
    ]
    return [*leaves(result.output), torch.tensor(reports), result.bit_map]


def play(stream: Stream, clip: Tensor) -> list[list[Tensor]]:
    return [record(stream.step(x[None], bit_map=True, layers=True)) for x in clip]


def assert_equal_bits(expected: list[list[Tensor]], got: list[list[Tensor]]) -> None:
    for i, (a, b) in enumerate(zip(expected, got, strict=True)):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x, y), f"frame {i}"


PRECISIONS = ["W8A8->W8A{0,4,8}", "W8A8->W4A4", "W8A8"]


@pytest.fixture(scope="module")
def everything() -> QuantizedModel:
    model = resq_core.quantize(seeded(Everything), PRECISIONS[0], period=6, backend="native")
    model.calibrate([moving_clip(8, 1), moving_clip(8, 2)], also=PRECISIONS, samples=4, points=5)
    return model


@pytest.fixture
def restore_threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("reference", ["tracking", "keyframe", "previous"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_instruction_set_gives_the_same_bits(
    everything: QuantizedModel, precision: str, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = everything.with_precision(precision)
    found = {}
    for isa in ISAS:
        if isa not in load_extension().isas():
            continue
        monkeypatch.setenv("RESQ_ISA", isa)
        other = on(model, "native")  # plans anew
        found[isa] = play(other.stream(reference=reference), moving_clip(8))
        assert other._runtime is not None
        assert other._runtime.serving((moving_clip(1),)).backend == f"native ({isa})"
    for isa in found:
        assert_equal_bits(found["portable"], found[isa])


def wide() -> nn.Sequential:
    """Runs of codes that fill matrix registers and runs that do not, many channels and few."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 160, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(160, 96, 1),
        nn.Conv2d(96, 64, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=2, stride=2),
        nn.Conv2d(64, 20, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(20, 40, 3),
        nn.ConvTranspose2d(40, 70, 4, stride=2),
    ).eval()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_wide_layers_have_the_same_bits_with_every_instruction_set(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = resq_core.quantize(wide(), precision, period=3, backend="native")
    clip = moving_clip(5, 1, (1, 3, 26, 37))
    model.calibrate([clip], samples=2, points=3)
    found = {}
    for isa in load_extension().isas():
        monkeypatch.setenv("RESQ_ISA", isa)
        found[isa] = play(on(model, "native").stream(threshold=0.01), clip)
    keyframe, residual = found["portable"][:2]
    assert not torch.equal(keyframe[0], residual[0])
    for isa in found:
        assert_equal_bits(found["portable"], found[isa])


@pytest.mark.parametrize("precision", ["W8A8->W8A{0,4,8}", "W8A8->W4A4"])
@pytest.mark.parametrize(
    ("kernel", "groups", "padding"), [(4, 1, 0), (2, 1, 0), (2, 3, 0), (4, 1, 2)]
)
def test_windows_side_by_side_are_what_the_reference_computes(
    precision: str, kernel: int, groups: int, padding: int
) -> None:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 36, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(36, 21, kernel, stride=kernel, padding=padding, groups=groups),
    ).eval()
    model = resq_core.quantize(network, precision, period=3, grid="aligned", backend="native")
    clip = moving_clip(4, 2, (1, 3, 13, 18))
    clip[3] += torch.randn(clip[3].shape)  # everything changes
    model.calibrate([clip], samples=2, points=3)
    streams = [on(model, backend).stream(threshold=0.01) for backend in ("reference", "native")]
    for frame in clip:
        wanted, got = (stream.step(frame[None]) for stream in streams)
        assert torch.allclose(wanted.output, got.output, rtol=1e-5, atol=1e-5)
        assert wanted.bops.frame == pytest.approx(got.bops.frame, abs=2)


@pytest.mark.parametrize("reference", ["tracking", "keyframe", "previous"])
@pytest.mark.usefixtures("restore_threads")
def test_any_number_of_threads_gives_the_same_bits(
    everything: QuantizedModel, reference: str
) -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(play(everything.stream(reference=reference), moving_clip(10)))
    assert_equal_bits(found[0], found[1])
    assert_equal_bits(found[0], found[2])


def test_streams_in_two_threads_at_once_give_what_one_gives_alone(
    everything: QuantizedModel,
) -> None:
    clips = [moving_clip(40, 1), moving_clip(40, 2)]
    alone = [play(everything.stream(), clip) for clip in clips]
    with ThreadPoolExecutor(2) as threads:
        together = threads.map(play, [everything.stream(), everything.stream()], clips)
        for expected, got in zip(alone, together, strict=True):
            assert_equal_bits(expected, got)


def test_interleaved_streams_do_not_meet(everything: QuantizedModel) -> None:
    settings_ = [
        (everything.with_precision(precision), reference)
        for precision in PRECISIONS
        for reference in ("tracking", "keyframe", "previous")
    ]
    clips = [moving_clip(8, seed) for seed in range(len(settings_))]
    alone = [
        play(model.stream(reference=reference), clip)
        for (model, reference), clip in zip(settings_, clips, strict=True)
    ]
    streams = [model.stream(reference=reference) for model, reference in settings_]
    mixed: list[list[list[Tensor]]] = [[] for _ in streams]
    for i in range(8):
        for k, stream in enumerate(streams):
            mixed[k] += play(stream, clips[k][i : i + 1])
    for expected, got in zip(alone, mixed, strict=True):
        assert_equal_bits(expected, got)


def test_a_clip_of_other_size_in_between_changes_nothing(everything: QuantizedModel) -> None:
    """A program lends its scratch to frames of every kind in turn."""
    small, large = moving_clip(4), moving_clip(4, shape=(1, 3, 24, 32))
    expected = play(everything.stream(), torch.cat([small]))
    stream = everything.stream()
    play(stream, large)
    again = stream.step(small[:1], bit_map=True, layers=True)
    assert again.reason == "size_changed"
    assert_equal_bits(expected, [record(again), *play(stream, small[1:])])


@pytest.mark.usefixtures("restore_threads")
def test_a_timed_frame_is_the_same_frame(everything: QuantizedModel) -> None:
    torch.set_num_threads(1)  # of several, one may find all products taken by the others
    options = everything.stream().options
    executor = everything.executor(moving_clip(1))
    assert isinstance(executor, NativeExecutor)
    frames = moving_clip(3).split(1)
    states = [StreamState(), StreamState()]
    for state in states:
        executor.anchor(frames[:1], state, options.reference, False, False)
    for frame in frames[1:]:
        plain = executor.residual((frame,), states[0], options.reference, options.policy, False)
        timed, times = executor.timed_residual(
            (frame,), states[1], options.reference, options.policy
        )
        assert list(timed.layers) == list(plain.layers)
        assert_equal_bits([leaves(plain.output)], [leaves(timed.output)])
        assert all(0 <= step.product_seconds <= step.seconds for step in times)
        computed = {step.name: step for step in times if step.pixels}
        assert set(computed) == {r.name for r in plain.layers if r.active_fraction}
        assert all(step.product_seconds > 0 for step in computed.values())


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("precision", ["W8A8->W8A8", "W8A8->W8A{0,4,8}"])
def test_tracking_does_not_drift(precision: str) -> None:
    """One keyframe and 100,000 frames later, a picture that stays is as good as at first.

    With 8 bits for every pixel it is what a keyframe gives, code by code.
    """
    torch.set_num_threads(1)
    clip = moving_clip(50, shape=(1, 3, 4, 6))
    model = resq_core.quantize(seeded(Plain), precision, period=1_000_000, backend="native")
    model.calibrate([clip], samples=4, points=5)
    stream = model.stream(reference="tracking")
    keyframe: Tensor = stream.step(clip[-1:]).output
    assert stream._runtime.serving((clip[:1],)).backend.startswith("native")
    runtime, state = stream._runtime, stream._state
    reference, policy = stream.options.reference, stream.options.policy

    def gap_after(frames: int) -> float:
        with torch.no_grad():
            for i in range(frames):
                runtime.run_residual((clip[i % 50][None],), state, reference, policy, False)
            for _ in range(5):
                run = runtime.run_residual((clip[-1:],), state, reference, policy, False)
        return float((run.output - keyframe).abs().max() / keyframe.abs().max())

    early, late = gap_after(50), gap_after(100_000)
    assert late <= (0.0 if precision == "W8A8->W8A8" else 1.5 * early)
    assert early < 0.05


# ---- what the program cannot hold, and callers that are wrong


class AcrossColumns(nn.Module):
    """A linear layer over the width of an image that a convolution reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), self.linear(x)


def test_what_cannot_be_planned_is_said_and_the_reference_serves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clip = moving_clip(4, shape=(1, 3, 8, 8))
    model = resq_core.quantize(seeded(AcrossColumns), "W8A8->W8A4", backend="auto")
    model.calibrate([clip], samples=2, points=3)
    expected = on(model, "reference").stream().step(clip[:1])
    with caplog.at_level("WARNING", "resq_core"):
        got = model.stream().step(clip[:1])
    assert "the reference backend serves, native cannot: a value is read both" in caplog.text
    for a, b in zip(leaves(expected.output), leaves(got.output), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(BackendError, match="both as an image and as rows"):
        on(model, "native").stream().step(clip[:1])


class Raw:
    """The extension, driven directly: a 1 × 1 convolution of 3 channels on 4 × 5 pixels."""

    def __init__(self) -> None:
        self.native = native = load_extension()
        assert STATUS.isa is not None
        self.program = program = native.Program(STATUS.isa)
        self.input, self.output = (
            program.add_tensor(1, 4, 5, 3, False),
            program.add_tensor(1, 4, 5, 2, False),
        )
        self.step = program.add_step(native.Step("import", [], self.input))
        self.layer = program.add_layer(**self.layer_arguments())
        weights, multiplier = np.ones((1, 3, 2), np.int8), np.ones(2, np.float32)
        program.add_block(self.layer, 0, 0, 0, 1, weights, multiplier, None)
        program.add_step(native.Step("conv", [], self.output, self.layer))
        program.mark_read(self.output)
        program.finish()

    def layer_arguments(self, **other: Any) -> dict[str, Any]:
        return {
            "tensor": self.input,
            "out": (4, 5, 2),
            "padding": (0, 0, 4, 5),
            "frame": (1.0, -127.0, 127.0, 1.0, 8),
            "planes": [1.0],
            "pool": [(1.0, 1.0, -127.0, 127.0, 1.0, 8, 0)],
            "quiet": 0.5,
            "fresh": 0.5,
            "weight_norm": 1.0,
            "macs": 120.0,
            "image": True,
            "phases": [(1, 1, 0, 0, 1, 1, [0], [0])],
        } | other

    def state(self, nbytes: int | None = None, offset: int = 0) -> np.ndarray:
        nbytes = self.program.state_bytes(2) if nbytes is None else nbytes
        whole = np.full(nbytes + 128, 128, np.uint8)
        start = -whole.ctypes.data % 64 + offset
        return whole[start : start + nbytes]

    def frame(self, state: Any, **other: Any) -> Any:
        options = {
            "anchor": True,
            "reference": 2,
            "relative": True,
            "look_everywhere": False,
            "refresh": False,
            "bits": False,
            "timed": False,
            "threads": 1,
            "probe": -1,
            "most": 1.0,
            "thresholds": [0.1],
        }
        return self.native.Frame(self.program, state, **options | other)

    def run(self, state: Any, x: np.ndarray, **other: Any) -> np.ndarray:
        frame = self.frame(state, **other)
        frame.bind(self.step, x)
        frame.run(0, 2)
        out = np.empty((1, 2, 4, 5), np.float32)
        frame.read(self.output, out)
        frame.finish()
        return out


IMAGE = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5) % 7


def test_the_extension_by_itself_runs_a_frame() -> None:
    raw, total = Raw(), IMAGE.sum(1, keepdims=True).repeat(2, 1)
    state = raw.state()
    assert np.array_equal(raw.run(state, IMAGE), total)
    assert np.array_equal(raw.run(state, IMAGE[..., ::-1], anchor=False), total[..., ::-1])
    assert np.array_equal(raw.run(None, IMAGE), total)


@pytest.mark.parametrize(("most", "goes_on"), [(0.25, True), (0.2, False)])
def test_a_pass_is_given_up_where_more_is_active_than_may_be(most: float, goes_on: bool) -> None:
    raw = Raw()
    state = raw.state()
    raw.run(state, IMAGE)
    changed = IMAGE.copy()
    changed[:, :, 0, :] += 1  # 5 of 20 pixels
    frame = raw.frame(state, anchor=False, probe=raw.layer, most=most)
    frame.bind(raw.step, changed)
    assert frame.run(0, 2) is goes_on


@pytest.mark.parametrize(
    ("error", "message", "act"),
    [
        (ValueError, "too small", lambda r: r.frame(r.state(64))),
        (ValueError, "not aligned to 64 bytes", lambda r: r.frame(r.state(offset=4))),
        (ValueError, "needs a state", lambda r: r.frame(None, anchor=False)),
        (ValueError, "reference is 0 to 2", lambda r: r.frame(r.state(), reference=3)),
        (ValueError, "the probe is a layer", lambda r: r.frame(r.state(), probe=1)),
        (ValueError, "a threshold per layer", lambda r: r.frame(r.state(), thresholds=[])),
        (TypeError, "arguments", lambda r: r.frame(r.state().view(np.int8))),
        (TypeError, "arguments", lambda r: r.frame(r.state().view(np.float32))),
        (TypeError, "arguments", lambda r: r.frame(r.state()[::2])),
        (TypeError, "arguments", lambda r: r.frame(r.state().reshape(-1, 64))),
        (
            TypeError,
            "arguments",
            lambda r: r.frame(r.state()).read(r.output, np.empty((1, 2, 4, 5))),
        ),
        (RuntimeError, "not bound", lambda r: r.frame(r.state()).run(0, 2)),
        (IndexError, "out of range", lambda r: r.frame(r.state()).run(0, 3)),
        (IndexError, "out of range", lambda r: r.frame(r.state()).run(-1, 1)),
        (ValueError, "another shape", lambda r: r.run(r.state(), IMAGE[..., :4])),
        (ValueError, "another shape", lambda r: r.run(r.state(), IMAGE.repeat(2, 0))),
        (TypeError, "arguments", lambda r: r.run(r.state(), IMAGE.astype(np.float64))),
        (TypeError, "arguments", lambda r: r.run(r.state(), IMAGE[0])),
        (IndexError, "range", lambda r: r.frame(r.state()).bind(9, IMAGE)),
        (
            IndexError,
            "range",
            lambda r: r.frame(r.state()).read(9, np.empty((1, 2, 4, 5), np.float32)),
        ),
        (
            ValueError,
            "another size",
            lambda r: r.frame(r.state()).read(r.output, np.empty((1, 2, 4, 4), np.float32)),
        ),
        (
            RuntimeError,
            "not kept",
            lambda r: r.frame(r.state()).read(r.input, np.empty((1, 3, 4, 5), np.float32)),
        ),
        (ValueError, "cannot run the mmx kernels", lambda r: r.native.Program("mmx")),
        (ValueError, "no step is called twist", lambda r: r.native.Step("twist", [], 0)),
        (
            ValueError,
            "holds its input",
            lambda r: r.program.add_layer(**r.layer_arguments(padding=(0, 0, 3, 5))),
        ),
        (
            ValueError,
            "taps in x",
            lambda r: r.program.add_layer(
                **r.layer_arguments(phases=[(1, 1, 0, 0, 1, 1, [0], [1])])
            ),
        ),
        (
            ValueError,
            "names a plane",
            lambda r: r.program.add_layer(
                **r.layer_arguments(pool=[(1.0, 1.0, -127.0, 127.0, 1.0, 8, 1)])
            ),
        ),
        (
            ValueError,
            "1 to 9 planes",
            lambda r: r.program.add_layer(**r.layer_arguments(planes=[1.0] * 10)),
        ),
    ],
)
def test_what_would_reach_beyond_memory_is_an_error(
    error: type[Exception], message: str, act: Any
) -> None:
    raw = Raw()
    with pytest.raises(error, match=message):
        act(raw)
    assert np.array_equal(Raw().run(raw.state(), IMAGE), IMAGE.sum(1, keepdims=True).repeat(2, 1))


def test_a_stream_takes_over_the_memory_of_one_that_ended() -> None:
    """And nothing of what was in it."""
    model = resq_core.quantize(seeded(Plain), "W8A8->W8A{0,4,8}", period=3, backend="native")
    model.calibrate([moving_clip(8, 1), moving_clip(8, 2)], samples=8)
    clips = [list(moving_clip(6, seed).unsqueeze(1)) for seed in (3, 4)]

    def run(stream: Stream, clip: list[Tensor]) -> list[Tensor]:
        return [stream.step(frame).output for frame in clip]

    for reference in ("tracking", "keyframe", "previous"):
        alone = run(model.stream(reference=reference), clips[1])
        first = model.stream(reference=reference)
        run(first, clips[0])
        memory = first._state.memory
        assert isinstance(memory, _NativeMemory)
        place = memory.block.data_ptr()
        del memory
        first.close()
        again, beside = model.stream(reference=reference), model.stream(reference=reference)
        assert all(torch.equal(a, b) for a, b in zip(run(again, clips[1]), alone, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(run(beside, clips[1]), alone, strict=True))
        places = []
        for stream in (again, beside):
            memory = stream._state.memory
            assert isinstance(memory, _NativeMemory)
            places.append(memory.block.data_ptr())
        assert places[0] == place
        assert places[1] != place
        del memory
