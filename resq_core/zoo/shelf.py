"""Folders of ready models: the one that comes with the package, and any of the user's."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from resq_core.errors import (
    CalibrationError,
    OptionError,
    PrecisionError,
    SavedModelError,
    UnknownModelError,
)
from resq_core.model import QuantizedModel
from resq_core.model import load as load_saved
from resq_core.naming import not_known
from resq_core.precision import Precision
from resq_core.zoo.cards import ModelCard

__all__ = ["PACKAGED", "Shelf", "card", "load", "names"]


class Shelf:
    """A folder with a folder per model: `NAME/card.json` beside `NAME/NAME.resq`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> tuple[str, ...]:
        """The models on it, sorted."""
        return tuple(sorted(p.parent.name for p in self._folder.glob("*/card.json")))

    def card(self, name: str) -> ModelCard:
        """A model's card.

        Raises:
            UnknownModelError: listing the names there are.
            SavedModelError: the card cannot be read, or belongs to another name.
        """
        if name not in self.names():
            raise UnknownModelError(not_known("no model is", name, self.names()))
        path = self._folder / name / "card.json"
        try:
            found = ModelCard.model_validate_json(path.read_text("utf-8"))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise SavedModelError(f"{path}: {field}: {first['msg']}") from error
        if found.name != name:
            raise SavedModelError(f"{path} is the card of {found.name!r}; expected {name!r}")
        return found

    def path(self, name: str) -> Path:
        """Where the model's saved file is. Raises as `card` does."""
        return self._folder / self.card(name).name / f"{name}.resq"

    def load(
        self,
        name: str,
        precision: str | Precision | None = None,
        backend: str = "auto",
        device: str = "cpu",
    ) -> QuantizedModel:
        """Load a calibrated model.

        Args:
            name: see `names`.
            precision: one of the card's; None takes the model's own default.
            backend: `auto`, `native` or `reference`; see `resq_core.backends.Backend`.
            device: `cpu`, `cuda`, `cuda:N` or `auto`; see `resq_core.device`.

        Raises:
            UnknownModelError: no such model.
            SavedModelError: its file is damaged or of another version.
            PrecisionError: it does not parse.
            CalibrationError: the model is not calibrated for it.
            OptionError, BackendError: there is no such backend or device, or `native` cannot be
                used here; or it follows objects, and is three networks.
        """
        if self.card(name).task == "vos":
            raise OptionError(
                f"{name} follows objects with three networks; expected "
                f"resq_core.pipelines.QuantizedStm.load(zoo.PACKAGED.path({name!r}))"
            )
        model = load_saved(self.path(name), backend=backend, device=device)
        if precision is None:
            return model
        try:
            return model.with_precision(precision)
        except (PrecisionError, CalibrationError) as error:
            raise type(error)(self.card(name).offers(str(precision), error)) from error


PACKAGED = Shelf(Path(__file__).parent)
"""The models that come with the package."""

names, card, load = PACKAGED.names, PACKAGED.card, PACKAGED.load
