"""The paper's networks as plain float modules, by name."""

from resq_core.models.checkpoints import load_weights
from resq_core.models.registry import architecture_of, build, names
from resq_core.models.stm import STM

__all__ = ["STM", "architecture_of", "build", "load_weights", "names"]
