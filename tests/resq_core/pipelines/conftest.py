from __future__ import annotations

import pytest

from resq_core.models import STM, build
from resq_core.pipelines import QuantizedStm, VosClip, quantize_stm
from tests.resq_core.models.golden import fill
from tests.resq_core.pipelines.scenes import masks, pictures


@pytest.fixture(scope="session")
def net() -> STM:
    module = build("stm", width=16).eval()
    assert isinstance(module, STM)
    fill(module, ["Encoder_M.mean", "Encoder_M.std", "Encoder_Q.mean", "Encoder_Q.std"])
    return module


@pytest.fixture(scope="session")
def model(net: STM) -> QuantizedStm:
    """Calibrated; nobody changes it."""
    quantized = quantize_stm(net, "W8A8->W8A{0,4,8}", period=3)
    clip = VosClip.of(pictures(4, seed=1), masks(1))
    quantized.calibrate([clip], samples=2, points=5, memory_every=2)
    return quantized
