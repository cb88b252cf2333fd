"""Networks, settings and clips drawn by hypothesis, and what two backends must agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from resq_core.backends import Backend
from resq_core.model import QuantizedModel
from resq_core.stream import StepResult

MOST_ELEMENTS = 12_000
"""Of one value; keeps an example to a fraction of a second."""

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Op(nn.Module):
    """A function with a name, so that a network that fails prints as what it is."""

    def __init__(self, name: str, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)

    def __repr__(self) -> str:
        return self.name


class Branches(nn.Module):
    """The sum of several modules on the same value."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        total = self.parts[0](x)
        for part in self.parts[1:]:
            total = total + part(x)
        return total


class Tokens(nn.Module):
    """A linear layer on the pixels of an image, as rows [N, H·W, C] or [N, H, W, C]."""

    def __init__(self, channels: int, out: int, bias: bool, flat: bool) -> None:
        super().__init__()
        self.linear, self.flat = nn.Linear(channels, out, bias=bias), flat

    def forward(self, x: Tensor) -> Tensor:
        if not self.flat:
            return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.linear(x.flatten(2).mT).mT.unflatten(2, x.shape[2:])


class Network(nn.Module):
    """Steps in order, each a module on earlier values; several values leave it."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        steps: Sequence[tuple[nn.Module, tuple[int, ...]]],
        outputs: Sequence[int],
    ) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.steps = nn.ModuleList(module for module, _ in steps)
        self.reads = [reads for _, reads in steps]
        self.outputs = tuple(outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = list(inputs)
        for step, reads in zip(self.steps, self.reads, strict=True):
            values.append(step(*(values[i] for i in reads)))
        return tuple(values[i] for i in self.outputs)

    def __repr__(self) -> str:
        first = len(self.shapes)
        lines = [f"v{i}: input {shape}" for i, shape in enumerate(self.shapes)]
        lines += [
            f"v{first + i} = {' '.join(repr(step).split())} of {list(reads)}"
            for i, (step, reads) in enumerate(zip(self.steps, self.reads, strict=True))
        ]
        return "\n" + "\n".join([*lines, f"outputs {list(self.outputs)}"])


# ---- steps; each gives a module, or None where it does not fit a value of that shape


def _channels(draw: Draw) -> int:
    return draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16, 17, 33, 64, 70]))


def _grouping(draw: Draw, channels: int) -> tuple[int, int]:
    """Groups, and output channels that they divide."""
    kind = draw(st.sampled_from(["one", "depthwise", "some"]))
    if kind == "depthwise":
        return channels, channels * draw(st.sampled_from([1, 2]))
    if kind == "some":
        groups = max(g for g in range(1, 5) if channels % g == 0)
        return groups, groups * draw(st.sampled_from([1, 2, 3, 5, 16]))
    return 1, _channels(draw)


def _with_norm(draw: Draw, layer: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(layer, nn.BatchNorm2d(channels)) if draw(st.booleans()) else layer


def convolution(draw: Draw, shape: torch.Size) -> nn.Module:
    groups, out = _grouping(draw, shape[1])
    padding = draw(st.sampled_from([1, 0, 2, 3, "same"]))
    layer = nn.Conv2d(
        shape[1],
        out,
        draw(st.sampled_from([1, 3, 5, 7, (1, 3), (3, 1), 2])),
        stride=1 if padding == "same" else draw(st.sampled_from([1, 2, 3, (2, 1)])),
        padding=padding,
        dilation=draw(st.sampled_from([1, 2])),
        groups=groups,
        bias=draw(st.booleans()),
    )
    return _with_norm(draw, layer, out)


def transposed(draw: Draw, shape: torch.Size) -> nn.Module:
    groups, out = _grouping(draw, shape[1])
    stride, dilation = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2]))
    layer = nn.ConvTranspose2d(
        shape[1],
        out,
        draw(st.sampled_from([1, 2, 3, 4])),
        stride=stride,
        padding=draw(st.sampled_from([0, 1, 2])),
        output_padding=draw(st.integers(0, max(stride, dilation) - 1)),
        groups=groups,
        dilation=dilation,
        bias=draw(st.booleans()),
    )
    return _with_norm(draw, layer, out)


def tokens(draw: Draw, shape: torch.Size) -> nn.Module:
    return Tokens(shape[1], _channels(draw), draw(st.booleans()), draw(st.booleans()))


def norm(draw: Draw, shape: torch.Size) -> nn.Module:
    return nn.BatchNorm2d(shape[1], affine=draw(st.booleans()))


def bound(draw: Draw, shape: torch.Size) -> nn.Module:
    return draw(
        st.sampled_from(
            [
                nn.ReLU(),
                nn.ReLU(inplace=True),
                nn.ReLU6(),
                nn.Hardtanh(-0.5, 0.75),
                Op("clamp(min=0.1)", lambda x: x.clamp(min=0.1)),
                Op("clamp(max=0.4)", lambda x: x.clamp(max=0.4)),
                Op("clamp(-0.2, 0.3)", lambda x: x.clamp(-0.2, 0.3)),
            ]
        )
    )


def own_sum(draw: Draw, shape: torch.Size) -> nn.Module:
    """Additions of a value with itself and of what is made from it."""
    side = lambda: nn.Conv2d(shape[1], shape[1], 3, padding=1)  # noqa: E731
    return draw(
        st.sampled_from(
            [
                Branches(nn.Identity(), side()),
                Branches(side(), side()),
                Branches(side(), nn.Identity(), side()),
                Branches(side(), nn.Sequential(side(), nn.ReLU())),
                Branches(side(), nn.MaxPool2d(3, 1, 1)),
                Op("x + x", lambda x: x + x),
            ]
        )
    )


def resize(draw: Draw, shape: torch.Size) -> nn.Module:
    mode = draw(st.sampled_from(["bilinear", "nearest"]))
    align = draw(st.booleans()) if mode == "bilinear" else None
    if draw(st.booleans()):
        size = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
        return Op(
            f"{mode}(size={size}, align={align})",
            lambda x: F.interpolate(x, size, mode=mode, align_corners=align),
        )
    factor = draw(st.sampled_from([2.0, 0.5, 1.5, (3.0, 0.4)]))
    return Op(
        f"{mode}(factor={factor}, align={align})",
        lambda x: F.interpolate(x, scale_factor=factor, mode=mode, align_corners=align),
    )


def pool(draw: Draw, shape: torch.Size) -> nn.Module:
    kernel, stride = draw(st.sampled_from([2, 3, (3, 2), 5])), draw(st.sampled_from([1, 2, 3]))
    padding = draw(st.sampled_from([0, 1]))
    ceil = draw(st.sampled_from([False, False, True]))
    if draw(st.booleans()):
        return nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    return nn.AvgPool2d(kernel, stride, padding, ceil, count_include_pad=draw(st.booleans()))


def mean(draw: Draw, shape: torch.Size) -> nn.Module:
    return nn.AdaptiveAvgPool2d(1)


def foreign(draw: Draw, shape: torch.Size) -> nn.Module:
    """Ops that run through torch, and sums whose shapes differ."""
    return draw(
        st.sampled_from(
            [
                nn.Sigmoid(),
                nn.Softmax(1),
                nn.PReLU(shape[1]),
                nn.GELU(),
                Op("x · sigmoid x", lambda x: x * x.sigmoid()),
                Op("turned", lambda x: x.permute(0, 1, 3, 2)),
                Op("flipped", lambda x: x.flip(1)),
                Op("x − first column", lambda x: x - x[..., :1]),
                Op("x + first pixel", lambda x: x + x[..., :1, :1]),
                Op("add(alpha=2)", lambda x: torch.add(x, x.abs(), alpha=2)),
                Op("x + 0.5", lambda x: x + 0.5),
            ]
        )
    )


SINGLE = {
    "convolution": convolution,
    "bound": bound,
    "own sum": own_sum,
    "transposed": transposed,
    "tokens": tokens,
    "norm": norm,
    "resize": resize,
    "pool": pool,
    "foreign": foreign,
    "mean": mean,
}
PAIRS = {
    "sum": Op("add", lambda a, b: a + b),
    "cat": Op("cat", lambda a, b: torch.cat([a, b], 1)),
    "product": Op("mul", lambda a, b: a * b),
}


def _fits(module: nn.Module, values: Sequence[Tensor]) -> Tensor | None:
    try:
        value = module(*(v.clone() for v in values))
    except (RuntimeError, ValueError):
        return None
    return value if 0 < value.numel() <= MOST_ELEMENTS else None


@st.composite
def networks(draw: Draw) -> Network:
    """A network of one to nine steps, with at least one layer."""
    batch = draw(st.sampled_from([1, 1, 1, 2, 3]))
    size = draw(st.sampled_from([(9, 11), (16, 16), (1, 1), (1, 7), (5, 3), (17, 24)]))
    depths = draw(st.lists(st.sampled_from([3, 1, 2, 4, 5, 16, 19]), min_size=1, max_size=2))
    shapes = [(batch, depth, *size) for depth in depths]
    torch.manual_seed(draw(st.integers(0, 99)))
    values = [torch.randn(shape) for shape in shapes]
    steps: list[tuple[nn.Module, tuple[int, ...]]] = []
    with torch.no_grad():
        for i, depth in enumerate(depths[1:], 1):  # so that no input is lost
            steps += [(nn.Conv2d(depths[0], 8, 1), (0,)), (nn.Conv2d(depth, 8, 3, 1, 1), (i,))]
            values += [module(values[reads[0]]) for module, reads in steps]
        for _ in range(draw(st.integers(1, 9))):
            kind = draw(st.sampled_from([*SINGLE, "convolution", "convolution", *PAIRS]))
            # most steps go on where the last one ended
            reads = [max(len(values) - 1 - draw(st.sampled_from([0, 0, 0, 1, 2])), 0)]
            if kind in PAIRS:
                module: nn.Module = PAIRS[kind]
                first = 2 if kind == "cat" else 1  # dimensions that have to agree
                like = values[reads[0]].shape[first:]
                reads.append(
                    draw(
                        st.sampled_from(
                            [i for i, v in enumerate(values) if v.shape[first:] == like]
                        )
                    )
                )
                if draw(st.booleans()):
                    reads.reverse()
            else:
                module = SINGLE[kind](draw, values[reads[0]].shape)
            if isinstance(module, nn.ReLU) and reads[0] < len(shapes):
                module = nn.ReLU()  # a network that writes into its input is not captured
            _settle(module)
            value = _fits(module, [values[i] for i in reads])
            if value is not None:
                steps.append((module, tuple(reads)))
                values.append(value)
        if not any(list(module.parameters()) and _has_layer(module) for module, _ in steps):
            last = nn.Conv2d(values[-1].shape[1], 3, 1).eval()
            steps.append((last, (len(values) - 1,)))
            values.append(last(values[-1]))
    more = draw(st.lists(st.integers(len(shapes), len(values) - 1), max_size=2, unique=True))
    outputs = [len(values) - 1, *(i for i in more if i != len(values) - 1)]
    return Network(shapes, steps, outputs).eval()


def _has_layer(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) for m in module.modules())


def _settle(module: nn.Module) -> None:
    """Eval mode, with batch norms that do something."""
    module.eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 2.0)
                nn.init.normal_(part.bias, std=0.1)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2.0)


def rounds_alike(network: Network) -> bool:
    """Every op gives the same last bit in torch and in native code.

    torch's resize and mean round in a way that depends on memory layout and processor, and what is
    not known natively may too; after them a code, or a kept half, at a tie can differ.
    """
    return not any(
        isinstance(part, nn.AdaptiveAvgPool2d | nn.GELU | nn.Sigmoid | nn.Softmax)
        or (isinstance(part, Op) and part.name.startswith(("bilinear", "x · sigmoid")))
        for part in network.modules()
    )


def places_rows(network: nn.Module) -> bool:
    """A linear layer takes [N, H, W, C], rows that have places in the frame."""
    return any(isinstance(part, Tokens) and not part.flat for part in network.modules())


# ---- how it runs

PRECISIONS = [
    "W8A8->W8A{0,4,8}",
    "W8A8->W8A4",
    "W8A8->W8A{2,4,8}",
    "W8A8->W8A{4,8}",
    "W8A8->W8A{0,8}",
    "W8A8->W4A{0,4,8}",
    "W8A8->W4A4",
    "W4A4->W4A4",
    "W8A8->W2A{0,3,5,8}",
    "W8A8->W8A{0,1,2,3,4,5,6,7,8}",
    "W4A4->W4A{0,2}",
    "W6A7->W5A6",
    "W8A0->W8A{0,4,8}",
    "W8A8->W0A{0,4}",
    "W8A8->W8A0",
    "W8A8",
]


@dataclass(frozen=True)
class Course:
    """One stream's settings, and what happens to it frame by frame.

    Attributes:
        precision, reference, policy, threshold, period: of the stream.
        frames: what each frame is: see `frames_of`.
        update: (frame, period, threshold) from that frame on.
        unsigned: of the calibration.
    """

    precision: str
    reference: str
    policy: str
    threshold: float | None
    period: int
    frames: tuple[str, ...]
    update: tuple[int, int | None, float | None]
    unsigned: bool = False


def courses() -> st.SearchStrategy[Course]:
    return st.builds(
        Course,
        precision=st.sampled_from(PRECISIONS),
        reference=st.sampled_from(["tracking", "keyframe", "previous"]),
        policy=st.sampled_from(["relative", "relative", "paper"]),
        threshold=st.sampled_from([None, 0.0, 0.01, 0.3, 1e6]),
        period=st.sampled_from([20, 4, 2]),
        unsigned=st.booleans(),
        frames=st.lists(
            st.sampled_from(["move", "move", "still", "new", "loud", "dark"]),
            min_size=9,
            max_size=9,
        ).map(lambda later: ("new", *later)),
        update=st.tuples(
            st.integers(1, 9), st.sampled_from([None, 3]), st.sampled_from([None, 0.02, 0.5])
        ),
    )


def frames_of(shapes: Sequence[tuple[int, ...]], kinds: Sequence[str]) -> list[list[Tensor]]:
    """Frames: `new` noise, one patch that `move`s, `still`, five times as `loud`, or `dark`."""
    generator = torch.Generator().manual_seed(7)
    frames: list[list[Tensor]] = []
    for i, kind in enumerate(kinds):
        frame = []
        for k, shape in enumerate(shapes):
            x = torch.randn(shape, generator=generator) if kind == "new" else frames[-1][k].clone()
            if kind == "move":
                h, w = shape[2:]
                top, left = i % h, (3 * i) % w
                patch = x[..., top : top + 3, left : left + 3]
                patch += 0.7 * torch.randn(patch.shape, generator=generator)
            elif kind == "loud":
                x = 5 * torch.randn(shape, generator=generator)
            elif kind == "dark":
                x = torch.zeros(shape)
            frame.append(x)
        frames.append(frame)
    return frames


def on(model: QuantizedModel, backend: str) -> QuantizedModel:
    """The same model, sharing its captured graphs, on another backend."""
    return QuantizedModel(
        model._graphs,
        model.precision,
        model.options,
        model._grid,
        model.encodings,
        Backend(backend),
    )


def leaves(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def assert_same(expected: StepResult, got: StepResult, bit_map: bool = True) -> None:
    """The same outputs to 1e-5 of their largest value, and the same account of the frame.

    Args:
        expected, got: with reports by layer.
        bit_map: compare that too.
    """
    assert (got.is_anchor, got.reason) == (expected.is_anchor, expected.reason)
    worst = output_difference(expected, got)
    assert worst <= 1e-5, f"an output differs by {worst:.1e} at frame {expected.index}"
    assert expected.layers is not None
    assert got.layers is not None
    for x, y in zip(expected.layers, got.layers, strict=True):
        assert (x.name, x.macs, x.policy_bops) == (y.name, y.macs, y.policy_bops)
        for what in ("mean_bits", "active_fraction", "clipped_fraction", "input_active_fraction"):
            a, b = getattr(x, what), getattr(y, what)
            assert abs(a - b) <= 1e-6 * max(1.0, abs(a)), (
                f"{what} of layer {x.name} is {b}, expected {a}, at frame {expected.index}"
            )
        assert abs(x.bops - y.bops) <= 1 + 1e-6 * x.bops
    if bit_map:
        assert expected.bit_map is not None
        assert got.bit_map is not None
        gap = (expected.bit_map - got.bit_map).abs().max().item()
        assert gap <= 1e-4, f"the bit map differs by {gap} bits at frame {expected.index}"


def output_difference(expected: StepResult, got: StepResult) -> float:
    """The largest difference, as a share of the largest value of its output."""
    worst = 0.0
    for a, b in zip(leaves(expected.output), leaves(got.output), strict=True):
        assert a.shape == b.shape
        gap, largest = (a - b).abs().max().item(), a.abs().max().item()
        worst = max(worst, gap / max(largest, 1e-30))
    return worst
