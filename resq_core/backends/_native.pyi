def cpu_features() -> list[str]:
    """Instruction-set extensions that processor and operating system support, lower-case."""

def isas() -> list[str]:
    """Kernel variants compiled in and runnable here, best first; the last is `portable`."""
