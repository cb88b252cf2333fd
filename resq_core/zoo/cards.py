"""What is known about a model of the zoo."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["ModelCard"]


class ModelCard(BaseModel):
    """A model's card, as stored in `card.json` beside its weights.

    Attributes:
        name: what `zoo.load` takes.
        title: for people.
        task: `segmentation`.
        architecture: registry name.
        classes: names by class id.
        palette: RGB by class id, 0 to 255.
        ignore_index: label value that is not scored.
        input_size: (height, width) that the network is fed.
        mean, std: of RGB in 0 to 1.
        licence: of the weights' terms.
        data: what it was trained on, and the data's licence.
        metrics: figures by name, each with the command that made it.
        training: how it was trained and how to do it again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    task: str
    architecture: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    data: str
    metrics: dict[str, float | str]
    training: str
    precisions: tuple[str, ...]
    """Precisions that it is calibrated for, the default first."""
