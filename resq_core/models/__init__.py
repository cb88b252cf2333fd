"""The paper's networks as plain float modules, by name."""

from resq_core.models.checkpoints import load_weights
from resq_core.models.registry import build, names

__all__ = ["build", "load_weights", "names"]
