"""The three DDRNets against the official implementation's recorded outputs, and properties."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from resq_core.errors import OptionError
from resq_core.models import DDRNet, build
from tests.resq_core.models.golden import (
    assert_golden,
    conv_rows,
    drawn,
    fill,
    golden,
    manifest_of,
)

NAMES = ("ddrnet23_slim", "ddrnet23", "ddrnet39")
CASES = [
    ("ddrnet23_slim", "augment_false_128x256"),
    ("ddrnet23_slim", "augment_true_128x256"),
    ("ddrnet23", "augment_false_128x256"),
    ("ddrnet39", "augment_false_128x256"),
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_outputs_and_taps_are_the_official_ones(shared: Path, name: str, case: str) -> None:
    want = golden(shared, name)["cases"][case]["B"]
    aux = case.startswith("augment_true")
    net = build(name, aux_head=aux).eval()
    assert fill(net) == want["fill_sha256"]
    taps: dict[str, Tensor] = {}
    for tap in want["taps"]:
        net.get_submodule(tap).register_forward_hook(
            lambda _m, _i, out, tap=tap: taps.__setitem__(tap, out)
        )
    x = torch.from_numpy(drawn("input", tuple(want["input_shape"])).astype(np.float32))
    with torch.inference_mode():
        outputs = net(x)
    for tap, (expected, *_) in want["taps"].items():
        assert_golden(taps[tap], expected, tap)
    outputs = outputs if aux else (outputs,)
    assert len(outputs) == len(want["outputs"])
    for output, (label, expected) in zip(outputs, want["outputs"].items(), strict=True):
        assert_golden(output, expected, label)


def test_every_golden_case_is_tested(shared: Path) -> None:
    assert {(name, case) for name in NAMES for case in golden(shared, name)["cases"]} == set(CASES)


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_keys_shapes_types_and_order(shared: Path, name: str, aux: bool) -> None:
    record = golden(shared, name)
    manifest = record["state_dict_manifest"]
    if aux:
        head = next(i for i, row in enumerate(manifest) if row[0].startswith("final_layer."))
        manifest = manifest[:head] + record["aux_head_manifest_extra"] + manifest[head:]
    with torch.device("meta"):
        state = build(name, aux_head=aux).state_dict()
    assert manifest_of(state) == manifest


@pytest.mark.parametrize("name", NAMES)
def test_multiply_adds_of_every_layer(shared: Path, name: str) -> None:
    want = json.loads((shared / "golden" / "macs.json").read_text())[name]
    with torch.device("meta"):
        net = build(name).eval()
        rows = conv_rows(net, torch.empty(want["input"]))
    assert rows == [row[:4] for row in want["layers"]]
    assert sum(row[1] for row in rows) == want["macs_all_convs"]
    assert sum(p.numel() for p in net.parameters()) == want["params"]


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (33, 95), (64, 64), (90, 120), (100, 60)])
def test_slim_takes_any_size_and_aux_leaves_the_main_output_alone(size: tuple[int, int]) -> None:
    plain, with_aux = build("ddrnet23_slim").eval(), build("ddrnet23_slim", aux_head=True).eval()
    fill(plain)
    fill(with_aux)
    x = torch.from_numpy(drawn("sizes", (2, 3, *size)).astype(np.float32))
    with torch.inference_mode():
        alone = plain(x)
        main, aux = with_aux(x)
    assert torch.equal(alone, main)
    assert main.shape == aux.shape == (2, 19, -(-size[0] // 8), -(-size[1] // 8))
    assert main.isfinite().all()
    assert not torch.equal(main, aux)


@pytest.mark.parametrize("name", ["ddrnet23", "ddrnet39"])
def test_wide_ones_take_any_size_and_aux_leaves_the_main_output_alone(name: str) -> None:
    plain, with_aux = build(name).eval(), build(name, aux_head=True).eval()
    fill(plain)
    fill(with_aux)
    x = torch.from_numpy(drawn("sizes", (1, 3, 33, 50)).astype(np.float32))
    with torch.inference_mode():
        alone = plain(x)
        main, aux = with_aux(x)
    assert torch.equal(alone, main)
    assert main.shape == aux.shape == (1, 19, 5, 7)


@pytest.mark.parametrize("upsample", [2, 4])
def test_finer_logits_begin_as_the_coarse_ones_repeated(upsample: int) -> None:
    coarse, finer = (build("ddrnet23_slim", num_classes=3, aux_head=True).eval() for _ in range(2))
    fill(coarse)
    fill(finer)
    assert isinstance(finer, DDRNet)
    finer.refine(upsample)
    finer.refine(upsample)  # it is so already
    x = torch.from_numpy(drawn("finer", (1, 3, 33, 50)).astype(np.float32))
    with torch.inference_mode():
        expected, aux = coarse(x)
        found, same = finer(x)
    repeated = expected.repeat_interleave(upsample, 2).repeat_interleave(upsample, 3)
    assert torch.allclose(found, repeated, atol=1e-5)
    assert torch.equal(aux, same)
    again = build("ddrnet23_slim", num_classes=3, aux_head=True, upsample=upsample).eval()
    again.load_state_dict(finer.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(x)[0], found)
    with pytest.raises(OptionError, match=f"this DDRNet has {upsample} already"):
        finer.refine(6 - upsample)


@pytest.mark.parametrize("upsample", [0, 3, True, "2"])
def test_logits_are_1_2_or_4_times_as_fine(upsample: object) -> None:
    with pytest.raises(OptionError, match="it must be 1, 2 or 4"):
        build("ddrnet23_slim", upsample=upsample)


@pytest.mark.parametrize("name", NAMES)
def test_aux_head_reads_the_detail_branch_before_the_last_exchange(name: str) -> None:
    net = build(name, aux_head=True).eval()
    fill(net)
    seen: dict[str, Tensor] = {}
    for module in ("seghead_extra", "layer4_"):
        net.get_submodule(module).register_forward_pre_hook(
            lambda _m, inputs, module=module: seen.__setitem__(module, inputs[0])
        )
    with torch.inference_mode():
        net(torch.from_numpy(drawn("aux", (1, 3, 40, 64)).astype(np.float32)))
    assert torch.equal(seen["seghead_extra"].relu(), seen["layer4_"])


@pytest.mark.parametrize("name", NAMES)
def test_export_gives_the_same_output(name: str) -> None:
    net = build(name, num_classes=3).eval()
    fill(net)
    x = torch.from_numpy(drawn("export", (1, 3, 40, 64)).astype(np.float32))
    with torch.no_grad():
        program = torch.export.export(net, (x,), strict=False)
        assert torch.equal(program.module()(x), net(x))
