"""The paper's networks as plain float modules, by name."""

from resq_core.models.checkpoints import load_weights
from resq_core.models.registry import architecture_of, build, names

__all__ = ["architecture_of", "build", "load_weights", "names"]
