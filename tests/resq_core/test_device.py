"""Networks on another device than the CPU: one that is played, and a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import resq_core
from resq_core import QuantizedModel
from resq_core.backends import Backend, Serving
from resq_core.backends.choice import serving_here
from resq_core.device import checked_device
from resq_core.errors import BackendError, OptionError
from resq_core.stream import StepResult
from tests.resq_core.elsewhere import ELSEWHERE, elsewhere
from tests.resq_core.networks import Everything, moving_clip, seeded

PRECISIONS = ("W8A8->W8A{0,4,8}", "W8A8->W4A{0,2,4}", "W8A8->W8A4", "W8A8->W8A0", "W8A8")


@pytest.fixture(params=["played", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where a test runs once more."""
    if request.param == "played":
        with elsewhere() as place:
            yield place
    elif torch.cuda.is_available():
        yield torch.device("cuda:0")
    else:
        pytest.skip("no GPU that torch can use on this machine")


def made(name: str, grid: str = "aligned") -> QuantizedModel:
    model = resq_core.quantize(
        seeded(Everything), PRECISIONS[0], grid=grid, backend="reference", device=name
    )
    model.calibrate([moving_clip(8, 1), moving_clip(8, 2)], also=PRECISIONS, samples=6)
    return model


def run(model: QuantizedModel, precision: str, reference: str) -> list[StepResult]:
    stream = model.with_precision(precision).stream(period=3, reference=reference)
    return [stream.step(x[None], bit_map=True, layers=True) for x in moving_clip(7)]


def values(result: StepResult) -> list[Tensor]:
    assert result.bit_map is not None
    return [x.cpu() for x in pytree.tree_leaves(result.output)] + [result.bit_map]


@pytest.fixture(scope="module")
def here() -> dict[str, QuantizedModel]:
    return {grid: made("cpu", grid) for grid in ("aligned", "free")}


@pytest.mark.parametrize("reference", ["tracking", "previous", "keyframe"])
@pytest.mark.parametrize("grid", ["aligned", "free"])
def test_a_stream_gives_what_it_gives_on_the_cpu(
    here: dict[str, QuantizedModel], device: torch.device, grid: str, reference: str
) -> None:
    exact = device == ELSEWHERE  # a GPU sums in another order
    known = here[grid]
    there = resq_core.quantize(
        seeded(Everything), PRECISIONS[0], grid=grid, device="cuda"
    ).with_encodings(known.encodings)
    for precision in PRECISIONS:
        results = run(there, precision, reference)
        for wanted, got in zip(run(known, precision, reference), results, strict=True):
            assert got.backend == f"reference ({device})"
            assert all(x.device == device for x in pytree.tree_leaves(got.output))
            assert got.bit_map is not None
            assert got.bit_map.device.type == "cpu"
            assert (got.reason, got.bops.w8a8) == (wanted.reason, wanted.bops.w8a8)
            for a, b in zip(values(wanted), values(got), strict=True):
                torch.testing.assert_close(
                    a, b, rtol=0, atol=0 if exact else 0.05 * float(a.abs().max())
                )
            if exact:
                assert got.layers == wanted.layers


def test_calibration_and_float_give_what_they_give_on_the_cpu(
    here: dict[str, QuantizedModel], device: torch.device
) -> None:
    there = made("cuda")
    frame = moving_clip(1)
    assert there.device == device
    for slot, scales in here["aligned"].encodings.scales.items():
        assert there.encodings.scales[slot] == pytest.approx(scales, rel=1e-3)
    for a, b in zip(
        pytree.tree_leaves(here["aligned"].float(frame)),
        pytree.tree_leaves(there.float(frame)),
        strict=True,
    ):
        assert b.device == device
        torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-3)
    assert there.macs(frame) == here["aligned"].macs(frame)
    assert {x.device for x in there.layer_inputs(frame).values()} == {device}


def test_a_forgotten_tensor_of_the_cpu_is_found() -> None:
    """Of the device that is played: it fails where a GPU fails, and nowhere else."""
    with elsewhere() as place:
        there = torch.ones(3, device=place)
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            torch.ones(3)[there.long() - 1]
        assert (there + torch.tensor(2.0)).sum().item() == 9
        assert (there[torch.tensor([0, 2])] * 2).cpu().tolist() == [2, 2]


def test_the_native_backend_is_of_the_cpu() -> None:
    gpu = torch.device("cuda", 0)
    words = "native, which runs on the CPU only, and device is cuda:0"
    with pytest.raises(BackendError, match=words):
        serving_here(Backend.NATIVE, gpu)
    with elsewhere(), pytest.raises(BackendError, match="CPU only, and device is meta"):
        resq_core.quantize(seeded(Everything), "W8A8", backend="native", device="cuda")
    serving = serving_here(Backend.AUTO, gpu)
    assert serving == Serving(
        "reference (cuda:0)", "native runs on the CPU only, and this is cuda:0"
    )
    assert (serving.isa, serving.device) == (None, "cuda:0")
    assert Serving("native (avx2)", None).device == Serving("reference", "why").device == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "cpu:0", ""])
def test_a_device_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="expected cpu, auto, cuda or cuda:N"):
        checked_device(name)


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(OptionError, match=r"device is cuda; torch \S+ was built without CUDA"):
        checked_device("cuda")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match="device is cuda:1; torch finds no GPU"):
        checked_device("cuda:1")
    assert checked_device("auto") == checked_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(OptionError, match="device is cuda:2; this machine has cuda:0, cuda:1"):
        checked_device("cuda:2")
    assert [str(checked_device(n)) for n in ("auto", "cuda", "cuda:1")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
    ]
