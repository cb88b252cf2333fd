"""What examples need: a real server of the street model, and a drawn clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from resq_core.world import Street
from service.commands.world import draw_clip
from service.launch import launch
from tests.service.conftest import quantized_stm

__all__ = ["clip", "quantized_stm", "server"]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `resq world --frames 10` draws."""
    path = tmp_path_factory.mktemp("world") / "clip.mp4"
    draw_clip(path, Street(seed=0), 10)
    return path


@pytest.fixture(scope="module")  # other tests count the processes that there are
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `resq serve` with a data folder of its own."""
    with launch(data_dir=tmp_path_factory.mktemp("data")) as launched:
        yield launched.address
