"""Objects on another device than the CPU: parts, heads and memory there, masks here."""

from __future__ import annotations

import numpy as np
import torch

from resq_core.models import STM
from resq_core.pipelines import QuantizedStm, VosPipeline, VosResult, quantize_stm
from tests.resq_core.elsewhere import elsewhere
from tests.resq_core.pipelines.scenes import masks, pictures


def followed(model: QuantizedStm) -> list[VosResult]:
    """Two frames of one object, then two of two."""
    pipeline, images = VosPipeline(model, masks(1), memory_every=2), pictures(4)
    results = [pipeline.step(image, bit_map=True) for image in images[:2]]
    pipeline.add_object(2, masks(2)[2])
    return results + [pipeline.step(image, bit_map=True) for image in images[2:]]


def test_it_gives_what_it_gives_on_the_cpu(net: STM, model: QuantizedStm) -> None:
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
