"""One call to an actor, with an end: its value, the error it means, or that the actor is lost."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from service.cluster.wire import Raised
from service.engine import WorkerLost

__all__ = ["call"]


def call(method: Any, *args: Any, seconds: float) -> Any:
    """Call a method of an actor and wait for its value, from any thread.

    Args:
        method: of an actor's handle.
        args: plain values and arrays.
        seconds: for which it is waited.

    Raises:
        WorkerLost: the actor is gone, cannot be reached, or gave no answer in time.
        EngineError, FrameError, DecodeError, DecoderLost: as the worker means it.
        RayTaskError: the actor failed; it says how.
    """
    try:
        value = ray.get(method.remote(*args), timeout=seconds)
    except RayTaskError:
        raise
    except RayError as error:
        what = str(error).strip().split("\n")[0] or type(error).__name__
        raise WorkerLost(f"{type(error).__name__}: {what[:200]}") from error
    if isinstance(value, Raised):
        raise value.error
    return value
