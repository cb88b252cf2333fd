import numpy as np
from numpy.typing import NDArray

def cpu_features() -> list[str]:
    """Instruction-set extensions that processor and operating system support, lower-case."""

def isas() -> list[str]:
    """Kernel variants compiled in and runnable here, best first; the last is `portable`."""

def winners(scores: NDArray[np.float32], rows: int, columns: int, isa: str) -> NDArray[np.uint8]:
    """The class with the largest of float32 scores [K, h, w], resized to rows by columns."""
