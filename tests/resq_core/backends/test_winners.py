"""Class ids of resized scores: the native kernels beside PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resq_core.backends.extension import ISAS, load_extension, native_status
from resq_core.backends.winners import winners

SHAPES = [
    ((11, 45, 60), (360, 480)),
    ((11, 180, 240), (360, 480)),
    ((3, 7, 5), (7, 5)),
    ((1, 4, 4), (9, 3)),
    ((256, 1, 1), (3, 5)),
    ((5, 33, 17), (8, 6)),  # smaller
    ((2, 1, 30), (31, 1)),
]


@pytest.fixture(params=[*ISAS, "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variant that runs here, and what serves without the extension."""
    if request.param == "torch":
        status = native_status()
        monkeypatch.setattr(
            "resq_core.backends.winners.native_status", lambda: type(status)(None, (), "gone")
        )
        return
    if native_status().isa is None or request.param not in load_extension().isas():
        pytest.skip(f"{request.param} does not run here")
    monkeypatch.setenv("RESQ_ISA", request.param)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_the_largest_of_the_resized_scores_wins(
    shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    found = winners(scores, size)
    assert found.shape == size
    assert found.dtype == np.uint8
    resized = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    best = resized.max(0).values
    own = resized.gather(0, torch.from_numpy(found).long()[None])[0]
    assert torch.all(best - own <= 1e-5), "another class only where both are as good"
    assert (own == best).float().mean() > 0.99


@pytest.mark.usefixtures("kernels")
def test_the_lower_id_wins_a_tie() -> None:
    assert not winners(torch.zeros(4, 3, 3), (8, 9)).any()
    scores = torch.zeros(4, 3, 3)
    scores[2:] = 1
    assert (winners(scores.transpose(1, 2), (5, 5)) == 2).all()
