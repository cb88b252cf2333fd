from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import resq_core
from resq_core.errors import CalibrationError, InputError, OptionError, SavedModelError
from resq_core.models import STM
from resq_core.pipelines import QuantizedStm, VosClip, VosPipeline, VosResult, quantize_stm
from resq_core.pipelines.stm_clips import part_clips
from tests.resq_core.elsewhere import elsewhere
from tests.resq_core.networks import Plain, moving_clip, seeded
from tests.resq_core.pipelines.scenes import SIZE, masks, pictures


def test_a_saved_model_gives_the_same(model: QuantizedStm, tmp_path: Path) -> None:
    path = tmp_path / "stm.resq"
    model.save(path)
    weights = sum(t.numel() * t.element_size() for t in model.net.state_dict().values())
    assert weights < path.stat().st_size < 1.01 * weights
    loaded = QuantizedStm.load(path)
    assert (loaded.precision, loaded.options) == (model.precision, model.options)
    assert loaded.macs((60, 90)) == model.macs(SIZE)
    for name, part in loaded.parts.items():
        assert part.encodings.scales == model.parts[name].encodings.scales
    a, b = (VosPipeline(m, masks(1), memory_every=2) for m in (model, loaded))
    for image in pictures(3):
        assert torch.equal(a.step(image).probabilities, b.step(image).probabilities)
    with pytest.raises(SavedModelError, match=r"parts .*QuantizedStm\.load"):
        resq_core.load(path)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    other = resq_core.quantize(seeded(Plain), "W8A8")
    other.calibrate([moving_clip(2)], samples=1)
    other.save(tmp_path / "other.resq")
    with pytest.raises(SavedModelError, match="expected a quantized STM"):
        QuantizedStm.load(tmp_path / "other.resq")
    with pytest.raises(FileNotFoundError):
        QuantizedStm.load(tmp_path / "none.resq")


def test_weights_are_held_once(model: QuantizedStm, net: STM) -> None:
    for name, part in model.parts.items():
        assert model.net.get_submodule(name) is part.module
    assert model.with_precision("W8A8").net is model.net
    for (name, mine), theirs in zip(
        model.net.state_dict().items(), net.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_a_model_without_scales(net: STM, tmp_path: Path) -> None:
    raw = quantize_stm(net, "W8A8")
    with pytest.raises(CalibrationError, match="not calibrated"):
        VosPipeline(raw, masks(1))
    with pytest.raises(CalibrationError, match="not calibrated"):
        raw.save(tmp_path / "raw.resq")
    with pytest.raises(CalibrationError, match="got no clips"):
        raw.calibrate([])
    with pytest.raises(OptionError, match="memory_every"):
        raw.calibrate([], memory_every=0)
    with pytest.raises(OptionError, match="expected an STM"):
        quantize_stm(nn.Conv2d(1, 1, 1), "W8A8")  # type: ignore[arg-type]


def test_other_precisions_need_their_scales(model: QuantizedStm) -> None:
    assert str(model.with_precision("W8A8->W8A4").precision) == "W8A8->W8A4"
    with pytest.raises(CalibrationError, match="W4A8"):
        model.with_precision("W4A8")


def test_a_failed_calibration_changes_nothing(model: QuantizedStm) -> None:
    before = {name: part.encodings for name, part in model.parts.items()}
    still = VosClip.of(pictures(1), masks(1))  # no residuals, and the decoder never ran
    with pytest.raises(CalibrationError, match="2 or more frames"):
        model.calibrate([still], samples=1)
    assert {name: part.encodings for name, part in model.parts.items()} == before


def test_parts_are_calibrated_on_what_they_will_get(net: STM) -> None:
    clip = VosClip.of(pictures(5), masks(2))
    found = part_clips(net, [clip], memory_every=2, memory_limit=2)
    lengths = {part: len(clips[0]) for part, clips in found.items()}
    assert lengths == {"Encoder_M": 3, "Encoder_Q": 5, "Decoder": 4}
    shapes = [list(x.shape) for x in found["Encoder_M"][0][1]]
    assert shapes == [[1, 3, 64, 96], [2, 64, 96], [2, 64, 96]]
    read, r3, r2 = found["Decoder"][0][3]
    assert (list(read.shape), list(r3.shape), list(r2.shape)) == (
        [2, 256, 4, 6],
        [1, 128, 8, 12],
        [1, 64, 16, 24],
    )
    assert len(list(found["Encoder_Q"][0])) == 5
    with pytest.raises(IndexError):
        found["Encoder_Q"][0][5]
    short = part_clips(net, [clip], memory_every=5, memory_limit=2)
    assert len(short["Encoder_M"][0]) == 2


FRAME = torch.zeros(1, 3, *SIZE)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (VosClip([], torch.ones(1, *SIZE)), "no frames"),
        (VosClip([FRAME, FRAME[..., :48]], torch.ones(1, *SIZE)), "frame 1 of a clip has shape"),
        (VosClip([FRAME.double()], torch.ones(1, *SIZE)), "float64"),
        (VosClip([FRAME], torch.ones(1, 8, 8)), "masks of a clip have shape"),
        (VosClip([FRAME], torch.ones(0, *SIZE)), "at least one value"),
    ],
)
def test_clips_that_cannot_be_used(net: STM, clip: VosClip, message: str) -> None:
    with pytest.raises(InputError, match=message):
        part_clips(net, [clip], 5, 10)


@pytest.mark.parametrize(
    ("images", "message"),
    [([], "no pictures"), (pictures(1, (32, 48)), r"object 1 is \(64, 96\) and the picture")],
)
def test_pictures_that_do_not_fit_their_masks(images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VosClip.of(images, masks(1))


def test_a_clip_from_pictures_is_what_a_stream_sees() -> None:
    clip = VosClip.of(pictures(2), masks(2))
    assert [list(f.shape) for f in clip.frames] == [[1, 3, *SIZE]] * 2
    assert np.array_equal(clip.masks[1].bool().numpy(), masks(2)[2])


def followed(model: QuantizedStm) -> list[VosResult]:
    """Two frames of one object, then two of two."""
    pipeline, images = VosPipeline(model, masks(1), memory_every=2), pictures(4)
    results = [pipeline.step(image, bit_map=True) for image in images[:2]]
    pipeline.add_object(2, masks(2)[2])
    return results + [pipeline.step(image, bit_map=True) for image in images[2:]]


def test_on_another_device_it_gives_what_it_gives_on_the_cpu(net: STM, model: QuantizedStm) -> None:
    """Parts, heads and memory are there, masks here."""

    def made(device: str) -> QuantizedStm:
        fresh = quantize_stm(net, "W8A8->W8A{0,4,8}", period=3, backend="reference", device=device)
        encodings = {name: part.encodings for name, part in model.parts.items()}
        parts = {name: p.with_encodings(encodings[name]) for name, p in fresh.parts.items()}
        return QuantizedStm(fresh.net, parts)

    wanted = followed(made("cpu"))
    with elsewhere() as device:
        there = made("cuda")
        assert there.device == device
        for a, b in zip(wanted, followed(there), strict=True):
            assert b.backend == f"reference ({device})"
            assert b.probabilities.device == device
            assert torch.equal(a.probabilities, b.probabilities.cpu())
            assert np.array_equal(a.output, b.output)
            assert torch.equal(a.bit_map, b.bit_map)  # type: ignore[arg-type]
