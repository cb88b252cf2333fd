"""Where commands put models that they made."""

from __future__ import annotations

from pathlib import Path

from resq_core import QuantizedModel
from resq_core.pipelines import QuantizedStm
from resq_core.zoo import ModelCard

__all__ = ["save_model"]


def save_model(out: Path, model: QuantizedModel | QuantizedStm, card: ModelCard) -> None:
    """Write a model as `out`, a file X.resq, or into the folder `out` with its card beside it.

    The card's name becomes the folder's.
    """
    if out.suffix == ".resq":
        out.parent.mkdir(parents=True, exist_ok=True)
        model.save(out)
        return
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / f"{out.name}.resq")
    named = card.model_copy(update={"name": out.name})
    (out / "card.json").write_text(named.model_dump_json(indent=1), "utf-8")
