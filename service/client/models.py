"""What a server says of its models and of its jobs. What newer servers add is ignored."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["ClipInfo", "ModelInfo"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ModelInfo(_Answer):
    """A model on offer.

    Attributes:
        name: what `model=` takes.
        title: for people.
        task: what it does.
        classes, palette: of segmentation, names and RGB by class id.
        input_size: (height, width) that the network sees.
        precisions: that it is calibrated for, its default first.
        licence: of its weights.
        serving: `{"backend", "device", "reason"}`; None before its first use.
        default: streams that name no model get it.
    """

    name: str
    title: str
    task: Literal["segmentation", "pose", "vos"]
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    input_size: tuple[int, int]
    precisions: tuple[str, ...]
    licence: str
    serving: dict[str, Any] | None = None
    default: bool = False


class ClipInfo(_Answer):
    """A job.

    Attributes:
        id: its name.
        state: where it is.
        error: why it failed.
        created: Unix time in seconds.
        model: that runs it.
        results: frames done so far.
        progress: 0 to 1; None where it is not known.
    """

    id: str
    state: Literal["uploading", "queued", "running", "done", "failed", "cancelled"]
    error: str | None
    created: float
    model: str
    results: int
    progress: float | None

    @property
    def finished(self) -> bool:
        """It will not change any more."""
        return self.state in ("done", "failed", "cancelled")
