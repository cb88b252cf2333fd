"""Layers as other people's networks write them, each as a tiny module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import resq_core
from resq_core.capture import capture
from resq_core.errors import CaptureError
from resq_core.graph import Graph
from resq_core.linear_op import LinearOp

SHAPE = (1, 4, 6, 8)


def run_float(op: LinearOp, x: Tensor) -> Tensor:
    return op.apply(x, op.weight, op.bias)


def layers(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {op.name: tuple(op.weight.shape) for op in graph.ops}


def same(module: nn.Module, x: Tensor) -> Graph:
    """Capture, compare with the module, and stream; returns the graph."""
    graph = capture(module, [x])
    with torch.no_grad():
        wanted, got = module(x), graph.run([x], run_float)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    q = resq_core.quantize(module, "W8A8->W8A{0,4,8}", example=x)
    moved = x.clone()
    moved[..., : x.shape[-1] // 4] += 0.5
    q.calibrate([[x, moved, x]], samples=2, points=4)
    stream, frame = q.stream(reference="keyframe"), q.with_precision("W8A8").stream()
    for step, dense in ((stream.step(x), frame.step(x)), (stream.step(x, bit_map=True), None)):
        if dense is not None:
            torch.testing.assert_close(step.output, dense.output, rtol=0, atol=0)
    assert step.mean_bits == 0
    changed = stream.step(moved, bit_map=True)
    assert 0 < changed.mean_bits <= 8
    assert changed.bit_map is not None
    assert bool(torch.isfinite(changed.bit_map).all())
    return graph


class Products(nn.Module):
    """One weight [4, 5] in every spelling of x @ w."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.weight = nn.Parameter(torch.randn(4, 5))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, image: Tensor) -> Tensor:
        x, w = image.flatten(2).mT, self.weight
        forms = {
            "matmul": lambda: x @ w,
            "batched": lambda: x @ w[None],
            "left": lambda: w.T @ x.mT,
            "mm": lambda: torch.mm(x.reshape(-1, 4), w),
            "bmm": lambda: torch.bmm(x, w[None]),
            "addmm": lambda: torch.addmm(self.bias, x.reshape(-1, 4), w),
            "einsum": lambda: torch.einsum("bnc,co->bno", x, w),
            "einsum left": lambda: torch.einsum("co,bnc->bon", w, x),
            "tensordot": lambda: torch.tensordot(x, w, dims=([2], [0])),
            "inner": lambda: torch.inner(x, w.T),
        }
        result: Tensor = forms[self.form]()
        return result


@pytest.mark.parametrize(
    "form",
    ["matmul", "batched", "left", "mm", "bmm", "addmm", "einsum", "einsum left", "tensordot",
     "inner"],
)  # fmt: skip
def test_a_product_with_a_learned_matrix_is_a_linear_layer(form: str) -> None:
    graph = same(Products(form).eval(), torch.randn(SHAPE))
    assert list(layers(graph).values()) == [(5, 4)]
    assert list(layers(graph)) == ["weight"]
    assert list(graph.macs.values()) == [6 * 8 * 4 * 5]


def test_an_einsum_into_heads_is_one_layer() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.randn(2, 4, 3))

        def forward(self, image: Tensor) -> Tensor:
            return torch.einsum("bnc,hcd->bhnd", image.flatten(2).mT, self.query)

    graph = same(Heads().eval(), torch.randn(SHAPE))
    assert layers(graph) == {"query": (6, 4)}


def test_a_product_with_a_fixed_table_or_of_two_activations_stays_float() -> None:
    class Resize(nn.Module):
        table: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)
            self.register_buffer("table", torch.rand(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y.mT @ y @ self.table

    assert layers(same(Resize().eval(), torch.randn(SHAPE))) == {"conv": (4, 4, 1, 1)}


class Sequences(nn.Module):
    """Convolutions over one dimension, with every setting."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.same = nn.Conv1d(4, 6, 3, padding="same", dilation=2)
        self.norm = nn.BatchNorm1d(6)
        self.grouped = nn.Conv1d(6, 8, 3, stride=2, padding=1, groups=2)
        self.up = nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1, output_padding=1, groups=2)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.same(image.flatten(2)))
        result: Tensor = self.up(F.gelu(self.grouped(x)))
        return result


def test_convolutions_over_one_dimension() -> None:
    graph = same(Sequences().eval(), torch.randn(SHAPE))
    assert layers(graph) == {"same": (6, 4, 1, 3), "grouped": (8, 3, 1, 3), "up": (8, 2, 1, 4)}
    assert not any("batch_norm" in str(call.target) for call in graph.calls)
    assert graph.macs == {
        "same": 48 * 6 * 4 * 3, "grouped": 24 * 8 * 3 * 3, "up": 24 * 8 * 2 * 4
    }  # fmt: skip


def test_layers_without_a_batch() -> None:
    class Unbatched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, padding="same")
            self.row = nn.Conv1d(6, 6, 3, padding=1)
            self.up = nn.ConvTranspose2d(6, 3, 2, stride=2)
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x[0])
            y = y + self.row(y.flatten(1)).view_as(y)
            result: Tensor = self.head(self.up(y).mean((1, 2)))
            return result

    graph = same(Unbatched().eval(), torch.randn(SHAPE))
    assert list(layers(graph)) == ["conv", "row", "up", "head"]


def test_layers_of_other_types_run_as_torch_runs_them() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 6, 1)
            self.wide = nn.Linear(6, 6, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x).flatten(2).mT
            with torch.autocast("cpu", dtype=torch.bfloat16):
                z = F.linear(y, self.wide.weight.float())
            result: Tensor = self.wide(y.double()).float() + z.float()
            return result

    assert list(layers(same(Mixed().eval(), torch.randn(SHAPE)))) == ["first"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("outside", [torch.no_grad, torch.enable_grad])
def test_modules_that_switch_gradients_themselves(mode: type, outside: type) -> None:
    class Switch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            with mode():
                y = self.conv(x).relu()
            with torch.autocast("cpu", enabled=False):
                result: Tensor = self.head(y)
            return result

    x = torch.randn(SHAPE)
    with outside():
        graph = capture(Switch().eval(), [x])
    assert list(layers(graph)) == ["conv", "head"]
    assert not graph.run([x], run_float).requires_grad


def test_transformer_layers_are_seen_inside() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.encoder(x.flatten(2).mT)
            return result

    graph = same(Encoder().eval(), torch.randn(SHAPE))
    names = [name.removeprefix("encoder.layers.0.") for name in layers(graph)]
    assert names == ["self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2"]


def test_tied_and_shared_weights_position_tables_and_odd_outputs() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patch = nn.Conv2d(4, 8, 2, stride=2)
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.table = nn.Parameter(torch.randn(1, 8, 5, 5))
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.b.weight = self.a.weight
            self.dropout = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> dict[str, object]:
            y = self.patch(x)
            place = F.interpolate(self.table, y.shape[-2:], mode="bicubic", align_corners=False)
            y = (y + place).flatten(2).mT
            y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1)
            mask = torch.arange(y.shape[1])[None, None, :] >= 2
            y = self.dropout(self.b(self.a(y).masked_fill(~mask.mT, 0.0)))
            best = y.argmax(-1)
            return {"tokens": y, "none": None, "best": best, "known": best > 3, "count": 3}

    module, x = Odd().eval(), torch.randn(SHAPE)
    graph = capture(module, [x])
    assert list(layers(graph)) == ["patch", "b", "b#2"]  # one weight, two biases
    got, wanted = graph.run([x], run_float), module(x)
    assert pytree.tree_structure(got) == pytree.tree_structure(wanted)
    assert (got["none"], got["count"]) == (None, 3)
    assert torch.equal(got["best"], wanted["best"])
    q = resq_core.quantize(module, "W8A8->W8A8", example=x)
    q.calibrate([[x, x + 0.1]], samples=1, points=3)
    assert q.stream().step(x).output["known"].dtype == torch.bool


def test_channels_last_tokens_show_where_the_bits_go() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.mix = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.mix(x.movedim(1, -1))
            return result

    x = torch.randn(1, 4, 16, 32)
    moved = x.clone()
    moved[..., :8, 24:] += 1.0  # the top right cell
    q = resq_core.quantize(Last().eval(), "W8A8->W8A{0,8}", reference="keyframe")
    q.calibrate([[x, moved]], samples=2, points=4)
    stream = q.stream()
    stream.step(x)
    result = stream.step(moved, bit_map=True)
    assert result.bit_map is not None
    assert result.bit_map[0, 3] > 6
    assert result.bit_map.count_nonzero() == 1


def test_a_layer_whose_input_grows_with_the_picture_stays_float() -> None:
    class Points(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.describe = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)[0].flatten(1).mT
            result: Tensor = self.describe(y[torch.nonzero(y[:, 0] > 0)[:, 0]])
            return result

    module, x = Points().eval(), torch.randn(SHAPE)
    graph = capture(module, [x])
    assert list(layers(graph)) == ["conv"]
    for frame in (x, x + 0.5):
        torch.testing.assert_close(graph.run([frame], run_float), module(frame))


def test_a_branch_inside_the_graph_names_the_module() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = torch.cond(x.sum() > 0, lambda v: v + 1, lambda v: v - 1, (x,))
            return result

    module = nn.Sequential(nn.Conv2d(4, 4, 1), Branch()).eval()
    with pytest.raises(CaptureError, match=r"control flow.*cond in 1 \(Branch\)"):
        capture(module, [torch.randn(SHAPE)])


def test_an_output_that_hardly_varies_is_no_reason_to_refuse() -> None:
    class Flat(nn.Module):
        def __init__(self, size: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.size = size
            self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return (self.norm(self.conv(x)) * 1e-3 + 1) * self.size

    for size in (1e4, 1e-41):
        with torch.no_grad():
            resq_core.quantize(Flat(size).eval(), "W8A8", example=torch.randn(SHAPE))
