from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resq_core
from resq_core.errors import InputError, OptionError
from resq_core.experiments.steps import stream_step
from resq_core.rivals import DisFlow, FeatureWarping, warp
from tests.resq_core.networks import seeded

HEIGHT, WIDTH = 64, 96


class Branching(nn.Module):
    """A network at a quarter of the resolution whose last layer alone can be cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.deep = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        result: Tensor = F.relu(self.last((y + self.deep(y.relu())).relu())) * 2
        return result


class Shift:
    """A flow that is known: everything moves right by so many pixels a frame."""

    def __init__(self, pixels: float) -> None:
        self.pixels, self.calls = pixels, 0

    def __call__(self, frame: Tensor, other: Tensor) -> Tensor:
        self.calls += 1
        flow = torch.zeros(1, 2, *frame.shape[2:])
        flow[:, 0] = -self.pixels
        return flow

    def macs(self, size: tuple[int, int]) -> int:
        return size[0] * size[1]


@pytest.fixture(scope="module")
def model() -> resq_core.QuantizedModel:
    torch.manual_seed(1)
    q = resq_core.quantize(seeded(Branching), "W8A8", backend="reference")
    q.calibrate([torch.randn(4, 3, HEIGHT, WIDTH)], samples=4)
    return q


def texture(shift: int = 0, seed: int = 0) -> Tensor:
    """Smooth noise [1, 3, H, W] that has moved right by `shift` pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, HEIGHT // 8, WIDTH // 4, generator=generator)
    wide = F.interpolate(coarse, (HEIGHT, 2 * WIDTH), mode="bicubic", align_corners=False)
    start = WIDTH // 2 - shift
    return wide[..., start : start + WIDTH].contiguous()


def test_a_warp_by_nothing_changes_nothing() -> None:
    features = torch.randn(1, 5, 8, 12)
    moved = warp(features, torch.zeros(1, 2, HEIGHT, WIDTH))
    torch.testing.assert_close(moved, features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("x", "y"), [(2, 0), (0, -1), (-3, 2)])
def test_a_warp_by_whole_cells_shifts(x: int, y: int) -> None:
    """Features of 8×12 cells, eight pixels each: (x, y) cells are (8x, 8y) pixels."""
    features = torch.randn(1, 5, 8, 12)
    flow = torch.tensor([8.0 * x, 8.0 * y]).view(1, 2, 1, 1).expand(1, 2, HEIGHT, WIDTH)
    moved = warp(features, flow)
    wanted = torch.roll(features, (-y, -x), (2, 3))
    inner = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(moved[inner], wanted[inner], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [None, "last"])
def test_a_known_shift_gives_the_shifted_output(
    model: resq_core.QuantizedModel, layer: str | None
) -> None:
    """Eight pixels are two cells: what the keyframe gave, two cells further right."""
    step = FeatureWarping(model, 2, Shift(8), layer)
    first, second = step(texture()), step(texture(8))
    assert (first.is_anchor, second.is_anchor) == (True, False)
    assert torch.equal(first.logits, stream_step(model, 1)(texture()).logits)
    wanted = torch.roll(first.logits, 2, 3)
    torch.testing.assert_close(second.logits[..., 2:], wanted[..., 2:], rtol=1e-4, atol=1e-4)
    assert step(texture(16)).is_anchor


def test_a_still_clip_repeats_and_costs_flow_and_warp(model: resq_core.QuantizedModel) -> None:
    macs = model.macs(texture())
    for layer, channels in ((None, 4), ("last", 8)):
        step = FeatureWarping(model, 3, Shift(0), layer)
        first, *rest = (step(texture()) for _ in range(3))
        assert first.bops == sum(macs.values()) * 64
        assert (first.policy_bops, first.mean_bits) == (0, pytest.approx(8))
        for outcome in rest:
            torch.testing.assert_close(outcome.logits, first.logits, rtol=1e-4, atol=1e-4)
            assert outcome.bops == (0 if layer is None else macs["last"] * 64)
            warped = channels * (HEIGHT // 4) * (WIDTH // 4) * 4
            assert outcome.policy_bops == (HEIGHT * WIDTH + warped) * 32 * 32


def test_where_the_network_cannot_be_cut(model: resq_core.QuantizedModel) -> None:
    with pytest.raises(OptionError, match="no layer 'lost'; its last is 'last'"):
        FeatureWarping(model, 2, Shift(0), "lost")(texture())
    with pytest.raises(OptionError, match="does not depend on its input alone"):
        FeatureWarping(model, 2, Shift(0), "deep")(texture())
    with pytest.raises(OptionError, match="period"):
        FeatureWarping(model, 0, Shift(0))


def test_the_flow_finds_a_shift() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    flow = DisFlow()(texture(6), texture())
    assert flow.shape == (1, 2, HEIGHT, WIDTH)
    inner = flow[0, :, 16:-16, 24:-24]
    assert inner[0].median().item() == pytest.approx(-6, abs=0.3)
    assert inner[1].median().item() == pytest.approx(0, abs=0.3)


def test_what_the_flow_costs() -> None:
    """At 128×128: one level, 32×32 pixels, 7×7 patches of 8×8 at a stride of 4."""
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    pyramid = 2 * 4 * (64 * 64 + 32 * 32)
    search = 49 * 64 * (16 * 7 + 2 * 3 * 5)
    pixels = 32 * 32 * (27 + 4 * 7 + 5 * (80 + 5 * 14))
    assert DisFlow().macs((128, 128)) == pyramid + search + pixels
    with pytest.raises(InputError, match="32×96"):
        DisFlow().macs((31, 200))
    with pytest.raises(InputError, match="two of one shape"):
        DisFlow()(torch.zeros(1, 3, 64, 96), torch.zeros(1, 3, 64, 97))
