from __future__ import annotations

from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "Write a picture of each state of the console into this folder."
    parser.addoption("--screenshots", type=Path, default=None, help=words)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference material beside the checkout: golden files, data, weights."""
    path = Path(__file__).resolve().parents[1].parent / "shared"
    if not path.is_dir():
        pytest.skip(f"the reference material is not at {path}")
    return path
