"""The method end to end on small networks: the properties that must hold exactly."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import resq_core
from resq_core import QuantizedModel, errors
from resq_core.linear_op import Kind, LinearOp
from resq_core.policy import Policy
from resq_core.residual import (
    LayerQuantizers,
    QuantizedWeight,
    Reference,
    anchor_step,
    residual_step,
)
from tests.resq_core.networks import Everything, Plain, moving_clip, seeded

STATIC = ["W8A8->W8A8", "W8A8->W8A4", "W8A8->W4A4", "W4A4->W3A3"]
DYNAMIC = ["W8A8->W8A{0,4,8}", "W8A8->W4A{0,2,4}"]
FRAME = ["W8A8", "W4A4", "W8A4", "W3A3"]


@lru_cache(maxsize=8)
def calibrated(
    network: type[nn.Module] = Everything,
    granularity: str = "channel",
    grid: str = "free",
    backend: str = "auto",
) -> QuantizedModel:
    q = resq_core.quantize(
        seeded(network), "W8A8", granularity=granularity, grid=grid, backend=backend
    )
    q.calibrate([moving_clip(8, 1), moving_clip(8, 2)], also=[*STATIC, *DYNAMIC, *FRAME], samples=8)
    return q


def outputs(result: resq_core.StepResult) -> list[Tensor]:
    out = result.output
    return [out] if isinstance(out, Tensor) else list(out.values())


@pytest.mark.parametrize("precision", STATIC + DYNAMIC)
@pytest.mark.parametrize("reference", list(Reference))
@pytest.mark.parametrize("grid", ["free", "aligned"])
def test_a_keyframe_equals_frame_quantization_bit_for_bit(
    precision: str, reference: str, grid: str
) -> None:
    q = calibrated(grid=grid)
    clip = moving_clip(7)
    stream = q.with_precision(precision).stream(period=3, reference=reference)
    frame = q.with_precision(precision.split("->")[0]).stream()
    for i in range(7):
        result, plain = stream.step(clip[i : i + 1]), frame.step(clip[i : i + 1])
        assert result.is_anchor == (i % 3 == 0)
        if result.is_anchor:
            assert all(map(torch.equal, outputs(result), outputs(plain)))
            if i == 0 or reference != "tracking":
                assert result.bops == plain.bops
            else:  # made of what differs from the state
                assert result.bops.frame <= plain.bops.frame
                assert result.mean_bits <= plain.mean_bits


def test_the_clock_says_when_an_anchor_is_due() -> None:
    clip = moving_clip(7)
    stream = calibrated().with_precision("W8A8->W8A4").stream(period=3)
    for i in range(7):
        due = stream.anchor_due
        assert due == (i % 3 == 0)
        assert stream.step(clip[i : i + 1]).is_anchor == due
    assert not stream.anchor_due
    stream.update(period=1)
    assert stream.anchor_due
    frames = calibrated().with_precision("W8A8").stream(period=3)
    frames.step(clip[:1])
    assert frames.anchor_due


@pytest.mark.parametrize("precision", DYNAMIC)
@pytest.mark.parametrize("form", ["paper", "relative"])
def test_an_identical_frame_costs_nothing_and_gives_the_keyframes_output(
    precision: str, form: str
) -> None:
    stream = (
        calibrated().with_precision(precision).stream(period=100, reference="keyframe", policy=form)
    )
    x = moving_clip(1)
    first, second = stream.step(x), stream.step(x, bit_map=True)
    assert all(map(torch.equal, outputs(first), outputs(second)))
    assert (second.mean_bits, second.active_fraction, second.bops.frame) == (0, 0, 0)
    assert second.bops.policy > 0
    assert second.bit_map is not None
    assert not second.bit_map.any()


@pytest.mark.parametrize("precision", ["W8A8->W8A8", "W8A8->W8A4", "W8A8->W8A{0,4,8}"])
def test_tracking_moves_towards_float_on_a_still_frame(precision: str) -> None:
    q = calibrated(Plain).with_precision(precision)
    stream, x = q.stream(period=1000, reference="tracking", threshold=0.0), moving_clip(1)
    # the float activations through the same quantized weights are the limit
    weights = resq_core.quantize(seeded(Plain), "W8A8")
    wanted = weights.float(x)
    distances = [(stream.step(x).output - wanted).norm().item() for _ in range(8)]
    assert distances[-1] <= distances[0] * (1 + 1e-6)
    assert max(distances[1:]) <= distances[0] * 1.02


def layer(op: LinearOp, weight_bits: int, pool: tuple[int, ...], scale: float) -> LayerQuantizers:
    weight = QuantizedWeight.of(op, weight_bits, per_channel=True)
    scales = tuple((b, scale * 2 ** (max(pool) - b)) for b in pool)
    return LayerQuantizers.of(op, (8, 4 * scale), weight, scales, weight)


def conv(seed: int = 0) -> LinearOp:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 4, 3, 3, generator=generator)
    bias = torch.randn(6, generator=generator)
    return LinearOp("conv", Kind.CONV2D, weight, bias, padding=(1, 1))


@pytest.mark.parametrize("pool", [(8,), (4,), (0, 4, 8)])
def test_ten_thousand_frames_of_tracking_do_not_drift(pool: tuple[int, ...]) -> None:
    op = conv()
    quantizers, policy = layer(op, 8, pool, 0.01), Policy.of("relative", 0.05)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 4, 6, 6, generator=generator)
    _, state = anchor_step(quantizers, x, Reference.TRACKING)
    assert state is not None
    for _ in range(10_000):
        x = 0.95 * x + 0.3 * torch.randn(x.shape, generator=generator)
        step = residual_step(quantizers, x, state, Reference.TRACKING, policy)
    (plane,) = quantizers.planes
    sent = state.codes[0].double() * plane.scale
    values = plane.weight.codes.double() * op.channels_to_weight(plane.weight.scale.double())
    assert op.bias is not None
    wanted = op.apply(sent, values, op.bias.double())
    spread = wanted.std().item()
    assert (step.z - wanted).abs().max().item() < 1e-6 * spread
    assert (sent - x).abs().mean().item() < 0.5 * x.abs().mean().item()


def test_previous_without_feedback_does_drift() -> None:
    """The control of the test above: the same walk, without feedback, leaves its input behind."""
    op = conv()
    quantizers, policy = layer(op, 8, (4,), 0.05), Policy.of("relative", 0.05)
    drift = {}
    for reference in (Reference.PREVIOUS, Reference.TRACKING):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(1, 4, 6, 6, generator=generator)
        _, state = anchor_step(quantizers, x, reference)
        assert state is not None
        for _ in range(500):
            x = 0.95 * x + 0.05 * torch.randn(x.shape, generator=generator)
            step = residual_step(quantizers, x, state, reference, policy)
        drift[reference] = (step.z - op.apply(x, op.weight, op.bias)).norm().item()
    assert drift[Reference.PREVIOUS] > 2 * drift[Reference.TRACKING]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(list(Kind)))
def test_the_residual_step_converges_to_float_as_bits_grow(seed: int, kind: Kind) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        Kind.CONV2D: (5, 4, 3, 3), Kind.CONV_TRANSPOSE2D: (4, 5, 3, 3), Kind.LINEAR: (5, 4)
    }  # fmt: skip
    weight = torch.randn(shapes[kind], generator=generator)
    op = LinearOp("op", kind, weight, torch.randn(5, generator=generator))
    shape = (3, 4) if kind is Kind.LINEAR else (1, 4, 5, 6)
    key, x = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    wanted = op.apply(x, weight, op.bias)
    errors_by_bits = []
    for bits in (2, 5, 8):
        reach = torch.cat([key, x - key]).abs().max().item()
        scale = 2 * reach / (2**bits - 1)
        quantized = QuantizedWeight.of(op, bits, per_channel=True)
        quantizers = LayerQuantizers.of(
            op, (bits, scale), quantized, ((bits, scale),), quantized, aligned=False
        )
        _, state = anchor_step(quantizers, key, Reference.KEYFRAME)
        assert state is not None
        step = residual_step(quantizers, x, state, Reference.KEYFRAME, Policy.of("relative", None))
        errors_by_bits.append((step.z - wanted).norm().item())
    assert errors_by_bits[2] < errors_by_bits[1] < errors_by_bits[0]
    assert errors_by_bits[2] < 0.03 * wanted.norm().item() + 0.05


def test_the_bias_is_added_once() -> None:
    op = LinearOp("op", Kind.LINEAR, torch.zeros(2, 3), torch.tensor([1.0, -2.0]))
    quantizers = layer(op, 8, (8,), 0.01)
    for reference in Reference:
        _, state = anchor_step(quantizers, torch.ones(1, 3), reference)
        assert state is not None
        for _ in range(3):
            step = residual_step(
                quantizers, torch.zeros(1, 3), state, reference, Policy.of("relative", None)
            )
            assert step.z.tolist() == [[1.0, -2.0]]


def test_hold_repeats_the_keyframes_output() -> None:
    stream = calibrated().with_precision("W8A8->W8A0").stream(period=3)
    clip = moving_clip(4)
    results = [stream.step(clip[i : i + 1], bit_map=True) for i in range(4)]
    for result in results[1:3]:
        assert all(map(torch.equal, outputs(results[0]), outputs(result)))
        assert (result.mean_bits, result.bops.frame, result.bops.policy) == (0, 0, 0)
    assert not torch.equal(outputs(results[3])[0], outputs(results[0])[0])
    assert stream.nbytes == 0


def test_two_threads_give_exactly_what_one_thread_gives() -> None:
    q = calibrated().with_precision("W8A8->W8A{0,4,8}")

    def run(seed: int) -> list[Tensor]:
        stream, clip = q.stream(period=4), moving_clip(10, seed)
        return [t for i in range(10) for t in outputs(stream.step(clip[i : i + 1]))]

    alone = [run(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(4)))
    assert all(
        torch.equal(a, b)
        for x, y in zip(alone, together, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_the_clock_and_its_reasons() -> None:
    stream = calibrated(Plain).with_precision("W8A8->W8A4").stream(period=3)
    x = moving_clip(1)
    reasons = [stream.step(x).reason for _ in range(5)]
    assert reasons == ["first_frame", None, None, "period", None]
    assert stream.step(x, anchor="moved_crop").reason == "moved_crop"
    assert stream.step(torch.randn(1, 3, 12, 20)).reason == "size_changed"
    stream.update(period=1)
    assert stream.step(torch.randn(1, 3, 12, 20)).reason == "period"
    assert stream.totals.frames == 8
    assert stream.totals.anchors == 5


def test_whoever_knows_why_the_size_changed_is_believed() -> None:
    stream = calibrated(Plain).with_precision("W8A8->W8A4").stream(period=30)
    stream.step(torch.randn(1, 3, 12, 20))
    changed = stream.step(torch.randn(2, 3, 12, 20), anchor="objects_changed")
    assert changed.reason == "objects_changed"


def test_a_failed_step_costs_only_itself() -> None:
    stream = calibrated(Plain).with_precision("W8A8->W8A4").stream(period=10)
    clip = moving_clip(3)
    stream.step(clip[:1])
    bad = clip[1:2].clone()
    bad[0, 0, 0, 0] = math.nan
    with pytest.raises(errors.InputError, match="NaN"):
        stream.step(bad)
    assert stream.step(clip[1:2]).reason is None  # refused before anything ran
    with pytest.raises(errors.CaptureError):
        stream.step(torch.randn(1, 5, 8, 8))
    assert stream.step(clip[2:3]).is_anchor  # state was lost, so a keyframe follows


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.float64), "float64"),
        (torch.zeros(0, 3, 8, 8), "at least one value"),
        (torch.zeros(1, 1, 1, 1).expand(1, 3, 20_000, 20_000), "pixels; expected at most"),
        ("frame", "at least one|expected a torch.Tensor"),
    ],
)
def test_unusable_frames(frame: Tensor, message: str) -> None:
    with pytest.raises(errors.InputError, match=message):
        calibrated(Plain).stream().step(frame)


@pytest.mark.parametrize("period", [0, -1, 1.5, True, 10**9])
def test_bad_periods(period: int) -> None:
    with pytest.raises(errors.OptionError, match="period T is"):
        calibrated(Plain).stream(period=period)


def test_a_bad_update_changes_nothing() -> None:
    stream = calibrated(Plain).stream(period=4)
    with pytest.raises(errors.OptionError):
        stream.update(period=5, threshold=-1.0)
    assert stream.options.period == 4


def test_state_is_counted_freed_and_never_shared_with_the_caller() -> None:
    q = calibrated(Plain, backend="reference").with_precision("W8A8->W8A4")
    stream = q.stream(period=10, reference="keyframe")
    frame = moving_clip(1)
    result = stream.step(frame)
    # both layers: x^k in float32 and its codes in int8, codes of the residual, z^k in float32
    assert stream.nbytes == 16 * 24 * ((4 + 1 + 1) * (3 + 8) + 4 * (8 + 4))
    wanted = result.output.clone()
    result.output.zero_()
    held = frame.clone()
    frame.zero_()
    assert torch.allclose(stream.step(held).output, wanted, atol=1e-5)
    stream.close()
    assert stream.nbytes == 0
    with pytest.raises(errors.StreamClosedError):
        stream.step(held)


def test_what_a_frame_reports_adds_up() -> None:
    stream = calibrated().with_precision("W8A8->W8A{0,4,8}").stream(period=4)
    clip = moving_clip(4)
    results = [stream.step(clip[i : i + 1], bit_map=True, layers=True) for i in range(4)]
    for r in results:
        assert r.layers is not None
        assert r.bops.frame == sum(x.bops for x in r.layers)
        macs = sum(x.macs for x in r.layers)
        assert r.bops.w8a8 == 64 * macs
        assert r.bops.fp32 == 1024 * macs
        assert r.mean_bits == pytest.approx(sum(x.macs * x.mean_bits for x in r.layers) / macs)
        assert r.bit_map is not None
        assert tuple(r.bit_map.shape) == (2, 3)
        assert r.bit_map.mean().item() == pytest.approx(r.mean_bits, rel=0.2)
        assert 0 <= r.active_fraction <= 1
    assert results[0].bops.saving == 0
    assert results[0].bops.policy == 0
    totals = stream.totals
    assert totals.bops == sum(r.bops.frame for r in results)
    assert totals.saving == pytest.approx(sum(r.bops.saving for r in results) / 4)
    for r in results:
        assert r.layers is not None
        inner = r.layers[1:-1]
        assert r.bops_paper.frame == sum(layer.bops for layer in inner) <= r.bops.frame
        assert r.bops_paper.w8a8 == 64 * sum(layer.macs for layer in inner) < r.bops.w8a8
    assert stream.totals_paper.bops == sum(r.bops_paper.frame for r in results)


def test_clipped_residuals_are_counted() -> None:
    # on the free grid: a residual of an aligned one reaches as far as the keyframe does
    q = resq_core.quantize(seeded(Plain), "W8A8->W8A8", period=4, grid="free")
    still = moving_clip(1).repeat(4, 1, 1, 1) + 0.001 * torch.randn(4, 3, 16, 24)
    q.calibrate([still], samples=4)
    stream, clip = q.stream(), moving_clip(2)
    assert stream.step(clip[:1]).clipped_fraction == 0
    assert stream.step(5 * clip[1:]).clipped_fraction > 0.5


def test_layers_count_the_input_pixels_that_changed() -> None:
    q = calibrated(Plain).with_precision("W8A8->W8A{0,4,8}")
    stream, frame = q.stream(period=8, reference="keyframe", threshold=0.0), moving_clip(1)
    changed = frame.clone()
    changed[..., 4:8, 4:12] += 3.0
    pixels = frame.shape[-2] * frame.shape[-1]
    shares = []
    for x in (frame, frame, changed):  # a keyframe, the same frame, one with a patch of 4x8
        layers = stream.step(x, layers=True).layers
        assert layers is not None
        shares.append([layer.input_active_fraction for layer in layers])
        last = layers[0].active_fraction
    assert shares[:2] == [[1.0, 1.0], [0.0, 0.0]]
    assert shares[2][0] == pytest.approx(4 * 8 / pixels)
    assert last == pytest.approx(6 * 10 / pixels)  # the halo of a 3x3 convolution


def test_weights_stay_frozen() -> None:
    module = seeded(Plain)
    q = resq_core.quantize(module, "W8A8")
    before = q.float(moving_clip(1))
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    assert torch.equal(q.float(moving_clip(1)), before)
