from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from resq_core.capture import capture
from resq_core.errors import CaptureError
from resq_core.linear_op import Kind, LinearOp
from tests.resq_core.networks import SHAPE, Everything, Plain, seeded


def run_float(op: LinearOp, x: Tensor) -> Tensor:
    return op.apply(x, op.weight, op.bias)


def test_a_graph_computes_what_the_module_computes() -> None:
    module, x = seeded(Everything), torch.randn(SHAPE)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    graph = capture(module, [x])
    got, wanted = graph.run([x], run_float), module(x)
    assert sorted(got) == ["map", "tokens"]
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_layers_are_found_named_and_counted() -> None:
    graph = capture(seeded(Everything), [torch.randn(SHAPE)])
    kinds = {op.name: op.kind for op in graph.ops}
    assert kinds == {
        "stem": Kind.CONV2D,
        "grouped": Kind.CONV2D,
        "up": Kind.CONV_TRANSPOSE2D,
        "project": Kind.LINEAR,
        "attention.in_proj": Kind.LINEAR,
        "attention.out_proj": Kind.LINEAR,
    }
    assert graph.macs["stem"] == 8 * 12 * 8 * 3 * 9
    assert graph.macs["grouped"] == 8 * 12 * 8 * 4 * 9
    assert graph.macs["up"] == 8 * 12 * 8 * 3 * 9
    assert graph.macs["project"] == 24 * 6 * 4


def test_batch_norm_is_folded_only_behind_a_layer() -> None:
    graph = capture(seeded(Everything), [torch.randn(SHAPE)])
    norms = [c for c in graph.calls if "batch_norm" in str(c.target)]
    assert len(norms) == 1  # the one behind the pool


def test_a_layer_called_twice_is_two_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.conv(self.conv(x).relu())
            return result

    graph = capture(Twice().eval(), [torch.randn(SHAPE)])
    assert [op.name for op in graph.ops] == ["conv", "conv#2"]


def test_in_place_ops_never_write_into_a_layers_output() -> None:
    module, x = seeded(Everything), torch.randn(SHAPE)
    graph = capture(module, [x])
    outputs: list[tuple[Tensor, Tensor]] = []

    def watch(op: LinearOp, v: Tensor) -> Tensor:
        z = run_float(op, v)
        outputs.append((z, z.clone()))
        return z

    graph.run([x], watch)
    assert all(torch.equal(z, copy) for z, copy in outputs)


class _Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class _Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(self.conv(x))
        return result


def test_control_flow_on_data_names_the_module_and_the_reason() -> None:
    with pytest.raises(CaptureError, match=r"in inner \(_Branch.*data-dependent"):
        capture(_Wrapper(_Branch()).eval(), [torch.randn(SHAPE)])


def test_a_module_that_writes_its_buffers_is_refused() -> None:
    class Counter(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return x * self.seen

    with pytest.raises(CaptureError, match=r"buffers \['inner.seen'\]"):
        capture(_Wrapper(Counter()).eval(), [torch.randn(SHAPE)])


def test_a_wrong_shape_names_the_layer() -> None:
    with pytest.raises(CaptureError, match=r"\[\[1, 4, 8, 8\]\].*first"):
        capture(seeded(Plain), [torch.randn(1, 4, 8, 8)])


def test_several_inputs_and_nested_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
            return self.conv(x), [self.conv(y), x + y]

    module, inputs = Two().eval(), [torch.randn(SHAPE), torch.randn(SHAPE)]
    got = capture(module, inputs).run(inputs, run_float)
    wanted = module(*inputs)
    assert pytree.tree_structure(got) == pytree.tree_structure(wanted)
    for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(wanted), strict=True):
        torch.testing.assert_close(a, b)


def test_one_example_for_two_inputs_still_gives_two_inputs() -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            result: Tensor = self.first(x) - self.second(y)
            return result

    module = seeded(Difference)
    same = torch.zeros(SHAPE)
    graph = capture(module, [same, same])
    x, y = torch.randn(SHAPE), torch.randn(SHAPE)
    got = graph.run([x, y], lambda op, v: op.apply(v, op.weight, op.bias))
    torch.testing.assert_close(got, module(x, y))


def test_a_network_that_writes_into_its_input() -> None:
    x = torch.randn(1, 3, 8, 8)
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3)).eval()
    graph = capture(network, (x,))
    got = graph.run((x,), lambda op, v: op.apply(v, op.weight, op.bias))
    torch.testing.assert_close(got, network(x.clone()))
